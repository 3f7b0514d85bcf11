//! Which breaker a failure speaks of: the path (this way to the upstream) or the service (this model of the
//! upstream, whichever way); and when several failures together blame an egress or an upstream.
//!
//! Pure. A client's own fault, a client that leaves, a deadline of the client's, our own bounds and whatever
//! speaks of a key are no evidence at all.

use std::time::Duration;

use tidegate_router::outcome::Class;

use crate::breaker::Fault;

/// What is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Upstream over egress.
    Path,
    /// Upstream and model.
    Service,
}

/// More about a failure than its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Nothing more.
    #[default]
    Plain,
    /// An HTML page came.
    Page,
    /// The certificate is expired, of another name, or of an unknown authority.
    Certificate,
    /// The proxy refused our login.
    ProxyLogin,
}

/// Whose failure it is. `works_elsewhere`: another egress of the same upstream has answered for this model lately
/// and this one has not.
#[must_use]
pub const fn blame(class: Class, detail: Detail, works_elsewhere: bool) -> Option<(Scope, Fault)> {
    match (class, detail) {
        (Class::Connect | Class::Dns | Class::Proxy | Class::Tls, Detail::Certificate) => {
            Some((Scope::Path, Fault::Certificate))
        }
        (Class::Proxy, Detail::ProxyLogin) => Some((Scope::Path, Fault::ProxyLogin)),
        (Class::Connect | Class::Dns | Class::Proxy | Class::Tls, _) => Some((Scope::Path, Fault::Unreached)),
        // What stands between us and the upstream made the page.
        (Class::BadResponse, Detail::Page) => Some((Scope::Path, Fault::Page)),
        // Silence and a reset look the same whether the way or its end is broken: the other ways tell.
        (Class::Timeout | Class::Cut, _) if works_elsewhere => Some((Scope::Path, Fault::Broken)),
        (Class::Timeout | Class::Cut | Class::ServerError | Class::BadResponse, _) => {
            Some((Scope::Service, Fault::Broken))
        }
        (Class::RateLimited | Class::Quota | Class::Auth | Class::ModelNotFound | Class::Busy, _) => None,
    }
}

/// Recent experience with one path.
#[derive(Debug, Clone, Copy)]
pub struct Experience {
    /// Of its upstream.
    pub upstream: usize,
    /// Of its egress.
    pub egress: usize,
    /// Since the last answer; `None`: never.
    pub good: Option<Duration>,
    /// Since the last failure that speaks of the path; `None`: never.
    pub bad: Option<Duration>,
}

impl Experience {
    fn fails(&self, within: Duration) -> bool {
        self.bad.is_some_and(|bad| bad <= within && self.good.is_none_or(|good| bad < good))
    }

    fn works(&self, within: Duration) -> bool {
        self.good.is_some_and(|good| good <= within && self.bad.is_none_or(|bad| good < bad))
    }
}

/// What several failures together blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Culprit {
    /// A way out: two upstreams fail over it and one of them works over another.
    Egress(usize),
    /// An upstream: two ways to it fail that work to another.
    Upstream(usize),
}

/// Looks for culprits in what happened `within` the last moments.
pub fn correlate(paths: &[Experience], within: Duration) -> impl Iterator<Item = Culprit> + '_ {
    let failing = move |path: &&Experience| path.fails(within);
    let egress = paths.iter().filter(failing).map(|path| path.egress).filter(move |egress| {
        let here = || paths.iter().filter(move |p| p.egress == *egress);
        let fail = here().filter(failing).count();
        let works = here().filter(failing).any(|path| {
            paths.iter().any(|p| p.upstream == path.upstream && p.egress != *egress && p.works(within))
        });
        fail >= 2 && works && !here().any(|path| path.works(within))
    });
    let upstreams = paths.iter().filter(failing).map(|path| path.upstream).filter(move |upstream| {
        let here = || paths.iter().filter(move |p| p.upstream == *upstream);
        let fail = here().filter(failing).filter(|path| {
            paths.iter().any(|p| p.egress == path.egress && p.upstream != *upstream && p.works(within))
        });
        fail.count() >= 2 && !here().any(|path| path.works(within))
    });
    egress.map(Culprit::Egress).chain(upstreams.map(Culprit::Upstream))
}

/// Everything that was tried lately failed, so it is this node that is cut off.
#[must_use]
pub fn is_cut_off(paths: &[Experience], within: Duration) -> bool {
    let mut tried = paths.iter().filter(|path| path.fails(within) || path.works(within)).peekable();
    tried.peek().is_some() && tried.all(|path| path.fails(within))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(10);

    fn path(upstream: usize, egress: usize, works: bool) -> Experience {
        let (good, bad) = if works { (1, 5) } else { (5, 1) };
        Experience {
            upstream,
            egress,
            good: Some(Duration::from_secs(good)),
            bad: Some(Duration::from_secs(bad)),
        }
    }

    #[test]
    fn two_upstreams_failing_over_one_egress_blame_the_egress() {
        let paths = [path(0, 1, false), path(1, 1, false), path(0, 0, true), path(1, 2, false)];
        assert!(correlate(&paths, NOW).all(|c| c == Culprit::Egress(1)));
        assert_eq!(correlate(&paths, NOW).next(), Some(Culprit::Egress(1)));
        // One upstream alone may be blocked behind it.
        assert_eq!(correlate(&[path(0, 1, false), path(0, 0, true)], NOW).next(), None);
        // An upstream that works over it clears it.
        let paths = [path(0, 1, false), path(1, 1, false), path(0, 0, true), path(2, 1, true)];
        assert_eq!(correlate(&paths, NOW).next(), None);
    }

    #[test]
    fn two_egresses_failing_to_one_upstream_blame_the_upstream() {
        let paths = [path(0, 0, false), path(0, 1, false), path(1, 0, true), path(1, 1, true)];
        assert_eq!(correlate(&paths, NOW).next(), Some(Culprit::Upstream(0)));
        assert!(!is_cut_off(&paths, NOW));
        let paths = [path(0, 0, false), path(0, 1, false)];
        assert_eq!(correlate(&paths, NOW).next(), None, "nothing shows that the ways are sound");
        assert!(is_cut_off(&paths, NOW));
        assert!(!is_cut_off(&[], NOW));
    }

    #[test]
    fn only_what_speaks_of_health_is_evidence() {
        let plain = |class| blame(class, Detail::Plain, false);
        for class in [Class::RateLimited, Class::Quota, Class::Auth, Class::ModelNotFound, Class::Busy] {
            assert_eq!(plain(class), None, "{class:?}");
        }
        assert_eq!(plain(Class::Connect), Some((Scope::Path, Fault::Unreached)));
        assert_eq!(plain(Class::ServerError), Some((Scope::Service, Fault::Broken)));
        assert_eq!(blame(Class::Timeout, Detail::Plain, true), Some((Scope::Path, Fault::Broken)));
        assert_eq!(blame(Class::ServerError, Detail::Plain, true), Some((Scope::Service, Fault::Broken)));
        assert_eq!(blame(Class::Tls, Detail::Certificate, false), Some((Scope::Path, Fault::Certificate)));
    }
}
