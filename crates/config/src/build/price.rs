//! `prices:`.

use tidegate_router::glob::Glob;

use super::check::{covered, glob, number};
use crate::fault::Collector;
use crate::read::{Said, Table};
use crate::said::Price;
use crate::unit::Text;
use crate::used;

const USD_MAX: f64 = 1e6;

/// Whether any model has a price. A fault among them is no reason to say that there is none.
pub(super) fn is_priced(said: &Said<Table<Price>>) -> bool {
    match said.get() {
        Some(Table(prices)) => !prices.is_empty(),
        None => said.key().is_some(),
    }
}

/// The prices in the order of the file.
pub(super) fn prices(said: &Said<Table<Price>>, faults: &mut Collector) -> Vec<used::Price> {
    let prices = said.get().map(|table| table.0.as_slice()).unwrap_or_default();
    covered("price", prices.iter().map(|(model, _)| (model.value.as_str(), model.place)), faults);
    let mut all = Vec::with_capacity(prices.len());
    for (model, price) in prices {
        glob(&Text(model.value.clone()), model.place, faults);
        all.push(used::Price {
            model: Glob::new(&model.value),
            input: number(&price.value.input, "input", 0.0..=USD_MAX, 0.0, faults),
            output: number(&price.value.output, "output", 0.0..=USD_MAX, 0.0, faults),
        });
    }
    all
}
