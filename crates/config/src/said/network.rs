//! `dns:` and `egress:` as written.

use crate::read::{Item, Table, said};
use crate::secret::Secret;
use crate::unit::{Ip, Net, Text};

said! {
    /// Name resolution.
    Dns: "`dns`", needs [] {
        /// Resolvers tried in order, `https://`, `tls://` or `udp://`; absent: the system's.
        servers: Vec<Item<Text>>,
        /// Host names whose addresses are not asked for.
        hosts: Table<Vec<Item<Ip>>>,
        /// Answers inside these networks are taken as poisoned.
        reject: Vec<Item<Net>>,
    }
}

said! {
    /// A way out through a proxy.
    Egress: "an egress", needs [name, proxy] {
        /// Unique; upstreams name it.
        name: Text,
        /// `http://HOST:PORT` (CONNECT) or `socks5h://HOST:PORT` (the proxy resolves names).
        proxy: Text,
        /// User name at the proxy.
        username: Text,
        /// Password at the proxy.
        password: Secret,
        /// Bearer token of a `wss://` tunnel.
        token: Secret,
    }
}
