//! Which machines a process talks to, as the system sees it (`/proc`).

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

/// The other ends of all sockets of process `id`, TCP and UDP. Empty once it has ended.
pub(crate) fn remote_ends(id: u32) -> BTreeSet<SocketAddr> {
    let process = PathBuf::from(format!("/proc/{id}"));
    let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else {
        return BTreeSet::new();
    };
    let inodes: BTreeSet<String> = descriptors
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    ["tcp", "tcp6", "udp", "udp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(process.join("net").join(table)).ok())
        .flat_map(|table| {
            let lines = table.lines().skip(1);
            lines
                .filter_map(|line| of_line(line, &inodes))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// The other end of a socket among `inodes`: columns 2 and 9 of the table.
fn of_line(line: &str, inodes: &BTreeSet<String>) -> Option<SocketAddr> {
    let columns: Vec<_> = line.split_whitespace().collect();
    if !inodes.contains(*columns.get(9)?) {
        return None;
    }
    let (ip, port) = columns.get(2)?.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each as this machine stores it.
    let words = ip.as_bytes().chunks_exact(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
    };
    (port != 0).then_some(SocketAddr::new(ip, port))
}

#[test]
fn a_connection_of_this_process_is_seen() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    assert!(!remote_ends(std::process::id()).contains(&addr));
    let _socket = std::net::TcpStream::connect(addr).unwrap();
    assert!(remote_ends(std::process::id()).contains(&addr));
}
