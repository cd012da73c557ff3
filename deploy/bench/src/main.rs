//! Benchmarks: Vecino and a peer of it side by side in one run, printed as ratios.
//!
//! `lookup-chain` measures a locate through client → own peer → neighbour → locator beside the
//! same chain of bare echo hops (actix → actix → tonic) and of nginx. The hops are processes of
//! their own, as Vecino's servers are; the bare ones are this program, started again as `echo-…`.
//!
//! `locator` measures the locator alone beside a bare echo, Redis, etcd, opentracker and SQLite, as a
//! directory of many peers that come and go, and on a Redis Cluster.

mod chain;
mod echo;
mod load;
mod locator;
mod process;

use std::process::ExitCode;

const HELP: &str = "\
vecino-bench: Vecino beside bare echo hops

Usage: vecino-bench lookup-chain [--rounds N] [--seconds S] [--connections N,N,...] [--names N]

  --rounds       interleaved rounds of which the median counts [default: 5]
  --seconds      length of one measurement [default: 3]
  --connections  connections that ask one lookup after another [default: 1,64]
  --names        records in the locator, asked in turn, so that no cache answers [default: 200000]

       vecino-bench locator; see vecino-bench locator --help
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--help" | "-h"] | ["lookup-chain", "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        ["echo-grpc"] => echo::grpc(),
        ["echo-last", next] => echo::last_hop(next),
        ["echo-first", next] => echo::first_hop(next),
        ["echo-directory"] => locator::echo(),
        ["echo-directory-cores"] => locator::echo_of_cores(),
        ["locator", "--help" | "-h"] => {
            print!("{}", locator::HELP);
            Ok(())
        }
        ["locator", ref options @ ..] => locator::Plan::parse(options).and_then(locator::run),
        ["lookup-chain", ref options @ ..] => chain::Plan::parse(options).and_then(chain::run),
        _ => Err(anyhow::anyhow!(
            "unknown arguments {arguments:?}; see --help"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vecino-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
