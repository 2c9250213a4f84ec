//! Connections to an instance, whoever holds them: how what a process has in flight that can't be asked any more is counted.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
};

/// Connections to addresses of IPv4 by their remote end, as far as an answer may still come on them.
pub(super) fn connected() -> HashMap<SocketAddr, u64> {
    connections_in(&std::fs::read_to_string("/proc/net/tcp").unwrap_or_default())
}

/// The form of `/proc/net/tcp` is in proc(5); the states are those of the kernel's `include/net/tcp_states.h`.
fn connections_in(table: &str) -> HashMap<SocketAddr, u64> {
    const ESTABLISHED: &str = "01";
    const SYN_SENT: &str = "02";
    const CLOSE_WAIT: &str = "08";
    let mut counts = HashMap::new();
    for line in table.lines().skip(1) {
        let mut words = line.split_ascii_whitespace().skip(2);
        let (Some(remote), Some(state)) = (words.next(), words.next()) else { continue };
        if let (ESTABLISHED | SYN_SENT | CLOSE_WAIT, Some(remote)) = (state, address(remote)) {
            *counts.entry(remote).or_default() += 1;
        }
    }
    counts
}

/// `0100007F:1F90`: the address in the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    Some(SocketAddr::from((ip, u16::from_str_radix(port, 16).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_their_remote_end_while_an_answer_may_come() {
        let line = |remote: &str, state: &str| {
            format!("   0: 0100007F:9C40 {remote} {state} 00000000:00000000 00:00000000 00000000     0        0 1 1\n")
        };
        let remote = if cfg!(target_endian = "little") { "0100007F:1F90" } else { "7F000001:1F90" };
        let states = ["01", "01", "08", "06", "0A", "04"];
        let table: String = "  sl  local_address rem_address   st\n".to_owned()
            + &states.map(|state| line(remote, state)).concat()
            + "garbage\n";
        let counts = connections_in(&table);
        assert_eq!(counts.get(&"127.0.0.1:8080".parse().unwrap()), Some(&3));
        assert_eq!(counts.len(), 1);
    }

    #[tokio::test]
    async fn a_connection_of_this_machine_is_seen() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(connected().get(&address), None);
        let _one = tokio::net::TcpStream::connect(address).await.unwrap();
        assert_eq!(connected().get(&address), Some(&1));
    }
}
