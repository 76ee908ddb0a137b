//! Every parser of a short text: no panic, and what prints reads back as the same.
#![no_main]

use api_types::quantity::Quantity;
use api_types::selectors::{FieldSelector, LabelSelector};
use api_types::{int_or_percent, names};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(selector) = LabelSelector::parse(text) {
        selector.matches_with(|key| (key.len() % 2 == 0).then_some("value"));
    }
    if let Ok(selector) = FieldSelector::parse(text) {
        selector.matches_with(|path| (path.len() % 2 == 0).then_some("value"));
    }
    if let Ok(quantity) = Quantity::parse(text) {
        let printed = quantity.to_string();
        let again = Quantity::parse(&printed).expect("what is printed parses");
        assert_eq!(again, quantity, "{text:?} printed as {printed:?}");
        (quantity.units(), quantity.milli());
    }
    int_or_percent::percentage(text);
    names::check_dns_subdomain(text);
    names::check_label_key(text);
    names::check_label_value(text);
    names::check_path_segment(text);
});
