//! `node:`, `listen:` and `admin:` as written.

use crate::read::{Item, said};
use crate::secret::Secret;
use crate::unit::{Address, Count, Net, Size, Text, Time};

said! {
    /// Who this node is.
    Node: "`node`", needs [] {
        /// Label in metrics, logs and the fleet view. Default: the host's name, else `tidegate-0`.
        name: Text,
        /// Where the node stands, as `hk`; a label.
        zone: Text,
        /// Memory for cached answers; 0B: none is held here. Default 128MiB.
        cache_memory: Size,
    }
}

said! {
    /// Where clients connect.
    Listen: "`listen`", needs [] {
        /// IP address and port. Default 0.0.0.0:8080.
        address: Address,
        /// Certificate and key; absent: plain HTTP.
        tls: ListenTls,
        /// Largest request body. Default 16MiB.
        max_body: Size,
        /// Connections open at once. Default 10000.
        max_connections: Count,
        /// After SIGTERM: unready at once, but still accepting this long. Default 5s.
        drain_grace: Time,
        /// Then running requests and streams get this long. Default 60s.
        drain_timeout: Time,
        /// Proxies in front of this node: `X-Forwarded-For` is believed from these alone.
        trusted_proxies: Vec<Item<Net>>,
    }
}

said! {
    /// PEM files, read again when they change. Paths are relative to this file's folder.
    ListenTls: "`listen.tls`", needs [cert, key] {
        /// Certificate chain, the node's own first.
        cert: Text,
        /// Private key of the first certificate.
        key: Text,
    }
}

said! {
    /// Where operators and Prometheus connect.
    Admin: "`admin`", needs [] {
        /// IP address and port. Default 127.0.0.1:9090.
        address: Address,
        /// Bearer token for what changes anything; absent: such calls only from this machine.
        token: Secret,
    }
}
