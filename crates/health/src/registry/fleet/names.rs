//! Breakers by names that all nodes share: indices differ from node to node as clients come.

use std::time::Instant;

use super::{NAME_MAX, SubjectName};
use crate::models;
use crate::registry::{Registry, Subject};

impl Registry {
    pub(super) fn subjects(&self) -> impl Iterator<Item = Subject> + '_ {
        let services = (0..self.upstreams.len()).flat_map(|upstream| {
            self.services(upstream).map(move |(model, _)| Subject::Service(upstream, model))
        });
        (0..self.paths.len()).map(Subject::Path).chain(services)
    }

    /// `None` for what has no name that all nodes share.
    pub(super) fn name_of(&self, subject: Subject) -> Option<SubjectName> {
        let (name, model) = match subject {
            Subject::Path(path) => (self.paths.get(path)?.name.clone(), None),
            Subject::Service(_, models::OTHER) => return None,
            Subject::Service(upstream, model) => {
                let model = self.models.name(model).map(|name| name.to_string()).unwrap_or_default();
                (self.upstreams.get(upstream)?.name.clone(), Some(model))
            }
        };
        let fits = name.len() <= NAME_MAX && model.as_ref().is_none_or(|model| model.len() <= NAME_MAX);
        fits.then_some(SubjectName { name, model })
    }

    pub(super) fn subject_of(&self, name: &SubjectName) -> Option<Subject> {
        let Some(model) = name.model.as_deref() else {
            return self.path_named(&name.name).map(Subject::Path);
        };
        let upstream = self.upstreams.iter().position(|upstream| upstream.name == name.name)?;
        let model = if model.is_empty() { models::NONE } else { self.models.known(model)? };
        let subject = Subject::Service(upstream, model);
        self.gate(subject).is_some().then_some(subject)
    }

    /// The first request for a model that enough peers have open need not fail here.
    pub(super) fn make_subject(&self, name: &SubjectName, now: Instant) -> Option<Subject> {
        let model = name.model.as_deref().filter(|model| model.len() <= NAME_MAX)?;
        let upstream = self.upstreams.iter().position(|upstream| upstream.name == name.name)?;
        let model = self.models.index(Some(model).filter(|model| !model.is_empty()));
        if model == models::OTHER {
            return None;
        }
        self.service(upstream, model, now)?;
        Some(Subject::Service(upstream, model))
    }
}
