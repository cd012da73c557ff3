use vecino_rest::piece::MIN_PIECE;

use super::*;

fn begun() -> (tempfile::TempDir, Vec<u8>, Arc<Part>) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let content: Vec<u8> = (0..2 * MIN_PIECE + 5).map(|i| (i % 253) as u8).collect();
    let layout = Layout::of(content.len() as u64).expect("small");
    let pieces = verify::hash_pieces(&layout, content.as_slice()).expect("hashed");
    let part = Part::create(dir.path(), &Digest::of(&content), layout, pieces).expect("begun");
    (dir, content, Arc::new(part))
}

fn piece<'a>(part: &Part, content: &'a [u8], index: u32) -> &'a [u8] {
    let range = part.layout.range(index);
    &content[range.start as usize..range.end as usize]
}

fn admit(part: &Arc<Part>, index: u32, bytes: &[u8]) -> bool {
    let mut writer = part.piece(index);
    for block in bytes.chunks(300_000) {
        if !writer
            .write(&[Bytes::copy_from_slice(block)])
            .expect("written")
        {
            return true;
        }
    }
    writer.finish().expect("finished") == Finished::Verified
}

#[test]
fn slices_of_any_number_and_length_are_written_one_after_the_other() {
    let file = tempfile::tempfile().expect("temporary file");
    let content: Vec<u8> = (0..20_000_u32).flat_map(u32::to_le_bytes).collect();
    let cut = |length: usize| content.chunks(length).map(Bytes::copy_from_slice);
    let mut blocks: Vec<_> = cut(content.len() / (3 * MAX_SLICES)).collect();
    assert!(blocks.len() > 3 * MAX_SLICES);
    blocks.insert(0, Bytes::new());
    blocks.insert(MAX_SLICES, Bytes::new());
    let end = write_all_at(&file, &blocks, 7).expect("written");
    assert_eq!(end, 7 + content.len() as u64);
    let mut read = vec![0; content.len()];
    file.read_exact_at(&mut read, 7).expect("read");
    assert!(read == content);
    assert_eq!(write_all_at(&file, &[], 7).expect("nothing"), 7);
    let nothing = vec![Bytes::new(); MAX_SLICES + 1];
    assert_eq!(write_all_at(&file, &nothing, 7).expect("nothing"), 7);
}

#[test]
fn only_right_pieces_are_admitted() {
    let (_dir, content, part) = begun();
    assert!(admit(&part, 0, piece(&part, &content, 0)));
    assert!(!admit(&part, 1, piece(&part, &content, 0)), "another piece");
    assert!(!admit(&part, 2, &[0; 5]), "wrong bytes");
    assert!(!admit(&part, 2, &content[..4]), "too short");
    assert!(admit(&part, 2, piece(&part, &content, 2)));
    assert!(part.has(0) && !part.has(1) && part.has(2));
}

#[test]
fn nobody_writes_to_a_verified_piece() {
    let (_dir, content, part) = begun();
    let mut late = part.piece(1);
    let wrong = [Bytes::from(vec![7; 1000])];
    assert!(late.write(&wrong).expect("written"));
    assert!(part.taken_bytes() >= 1000);
    assert!(admit(&part, 1, piece(&part, &content, 1)));
    assert!(!late.write(&wrong).expect("refused"));
    assert_eq!(late.finish().expect("short"), Finished::Wrong);
    assert!(part.holds(1, &mut Vec::new()).expect("read"));
}

#[test]
fn what_two_wrote_at_once_is_read_again() {
    let (_dir, content, part) = begun();
    let right = piece(&part, &content, 1);
    let (first, second) = right.split_at(right.len() / 2);
    let block = |bytes: &[u8]| [Bytes::copy_from_slice(bytes)];
    let (mut honest, mut liar) = (part.piece(1), part.piece(1));
    assert!(honest.write(&block(first)).expect("written"));
    // Comes late, and over what is right.
    assert!(liar.write(&block(&vec![7; first.len()])).expect("written"));
    assert!(honest.write(&block(second)).expect("written"));
    assert_eq!(honest.finish().expect("read"), Finished::Garbled);
    assert!(!part.has(1));
    // Who writes all of it again makes it good, although the liar is still there.
    let mut again = part.piece(1);
    assert!(again.write(&block(right)).expect("written"));
    assert_eq!(again.finish().expect("read"), Finished::Verified);
    assert!(!liar.write(&block(second)).expect("refused"));
    assert!(part.holds(1, &mut Vec::new()).expect("read"));
}

#[test]
fn a_crash_keeps_what_was_verified_and_checks_it_again() {
    let (dir, content, part) = begun();
    let (digest, layout) = (Digest::of(&content), part.layout);
    assert!(admit(&part, 0, piece(&part, &content, 0)));
    assert!(admit(&part, 1, piece(&part, &content, 1)));
    // The crash kept the flag of piece 1 but not its bytes.
    part.file
        .write_all_at(&[0; 9], MIN_PIECE + 3)
        .expect("written");
    drop(part);
    let (_, verified) = Part::resume(dir.path(), &digest, &layout)
        .expect("read")
        .expect("there");
    assert_eq!(verified, [true, false, false]);
}

#[test]
fn nobody_goes_on_with_a_part_whose_sync_failed() {
    let (_dir, content, part) = begun();
    assert!(admit(&part, 0, piece(&part, &content, 0)));
    let mut part = Arc::into_inner(part).expect("only here");
    // It cannot be synced.
    let file = File::open("/dev/null").expect("opened");
    let written = std::mem::replace(&mut part.file, Arc::new(file));
    part.sync();
    part.file = written;
    let part = Arc::new(part);
    assert!(!part.is_there());
    let mut writer = part.piece(1);
    let block = Bytes::copy_from_slice(piece(&part, &content, 1));
    writer.write(&[block]).expect_err("nothing more counts");
    part.finish(0).expect_err("the kernel told it before");
}

#[test]
fn a_broken_part_is_not_resumed() {
    let (dir, content, part) = begun();
    let (digest, layout) = (Digest::of(&content), part.layout);
    part.have
        .write_all_at(b"x", (HEADER + 3) as u64)
        .expect("written");
    drop(part);
    for digest in [digest, Digest::of(b"other")] {
        let resumed = Part::resume(dir.path(), &digest, &layout);
        assert!(resumed.expect("read").is_none());
    }
}

#[test]
fn a_part_that_is_begun_again_or_of_another_size_spoils_no_reader() {
    let (dir, content, part) = begun();
    let digest = Digest::of(&content);
    assert!(admit(&part, 0, piece(&part, &content, 0)));
    let other = Layout::of(part.layout.size() + 1).expect("small");
    for layout in [other, part.layout] {
        let again = Part::create(dir.path(), &digest, layout, part.pieces.clone());
        again.expect("begun");
        assert!(part.holds(0, &mut Vec::new()).expect("read"));
    }
}

#[test]
fn a_finished_part_is_not_taken_for_a_forgotten_one() {
    let (dir, content, part) = begun();
    for index in 0..3 {
        assert!(admit(&part, index, piece(&part, &content, index)));
    }
    part.finish(0).expect("synced, with a time of long ago");
    tidy(dir.path(), SystemTime::now(), true).expect("tidied");
    assert!(part.path.exists());
}

#[test]
fn forgotten_parts_and_left_uploads_are_deleted() {
    let (dir, _, part) = begun();
    let upload = dir.path().join("1.upload");
    fs::write(&upload, "x").expect("written");
    tidy(dir.path(), SystemTime::now(), true).expect("tidied");
    assert!(part.path.exists() && !upload.exists());
    tidy(dir.path(), SystemTime::now() + 2 * FORGOTTEN_AFTER, false).expect("tidied");
    assert!(!part.path.exists());
}
