use super::*;

pub(super) fn settings() -> ServerSettings {
    ServerSettings {
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        protocol: Protocol::Http1,
        proxy_protocol: ProxyProtocol::Off,
        max_connections: 100,
        header_timeout: Duration::from_millis(300),
        idle_timeout: Duration::from_millis(600),
        write_timeout: Duration::from_millis(500),
        drain_timeout: Duration::from_secs(5),
        max_headers: 64,
        max_header_bytes: 16 * 1024,
        http2: Http2Settings {
            max_concurrent_streams: 100,
            stream_window: 64 * 1024,
            connection_window: 1024 * 1024,
            max_header_list: 16 * 1024,
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
        },
    }
}

#[test]
fn failed_accepts_pause_longer_and_longer_up_to_a_second() {
    let delays: Vec<_> = [1, 2, 7, 8, 1000, u32::MAX]
        .map(|failures| Backoff::delay(failures).as_millis())
        .into();
    assert_eq!(delays, [10, 20, 640, 1000, 1000, 1000]);
}
