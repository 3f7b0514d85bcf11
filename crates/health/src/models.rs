//! Models as small numbers, so that what is kept per model is found without hashing its name again.
//!
//! The first hundred seen have a number of their own; the rest share one, because clients may invent names.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

/// Requests that name no model.
pub const NONE: usize = 0;
/// Numbers handed out.
const NAMED: usize = 100;
/// Everything beyond.
pub const OTHER: usize = NAMED + 1;
/// Length of a table by model.
pub const TABLE: usize = NAMED + 2;

/// The table.
#[derive(Debug, Default)]
pub struct Models {
    by_name: ArcSwap<HashMap<Arc<str>, usize>>,
    /// Serves writers only.
    names: Mutex<Vec<Arc<str>>>,
}

impl Models {
    /// The number of a model; lock-free once it is known.
    pub fn index(&self, name: Option<&str>) -> usize {
        let Some(name) = name else { return NONE };
        if let Some(index) = self.by_name.load().get(name) {
            return *index;
        }
        self.insert(name)
    }

    /// The number of a model that has one of its own; lock-free.
    pub fn known(&self, name: &str) -> Option<usize> {
        self.by_name.load().get(name).copied()
    }

    fn insert(&self, name: &str) -> usize {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.by_name.load_full();
        if let Some(index) = known.get(name) {
            return *index;
        }
        if names.len() >= NAMED {
            return OTHER;
        }
        let name: Arc<str> = name.into();
        names.push(Arc::clone(&name));
        let mut more = HashMap::clone(&known);
        more.insert(name, names.len());
        self.by_name.store(Arc::new(more));
        names.len()
    }

    /// The name of a number; `None` for requests without one.
    pub fn name(&self, index: usize) -> Option<Arc<str>> {
        if index == OTHER {
            return Some("other".into());
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        index.checked_sub(1).and_then(|at| names.get(at).cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_models_have_numbers_and_the_rest_share_one() {
        let models = Models::default();
        assert_eq!(models.index(None), NONE);
        for n in 0..150 {
            let name = format!("m{n}");
            let index = models.index(Some(&name));
            assert_eq!(index, if n < 100 { n + 1 } else { OTHER });
            assert_eq!(models.index(Some(&name)), index, "stays the same");
        }
        assert_eq!(models.name(1).as_deref(), Some("m0"));
        assert_eq!(models.name(NONE), None);
    }
}
