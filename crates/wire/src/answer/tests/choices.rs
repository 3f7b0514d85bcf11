use super::*;

#[test]
fn each_choice_begins_and_ends_by_its_index() {
    let data = r#"{"choices":[{"index":1,"delta":{"content":"a"},"finish_reason":null},{"index":2,"delta":{},"finish_reason":"stop"}]}"#;
    let peek = event(Dialect::Chat, data);
    assert_eq!((peek.begun, peek.ended), (0b110, 0b100));
    let odd = event(
        Dialect::Completions,
        r#"{"choices":[{"index":"x","text":"a","finish_reason":"length"},{"index":999,"text":""}]}"#,
    );
    assert_eq!((odd.begun, odd.ended), (1, 1));
    let other = event(Dialect::Other, r#"{"choices":[{"index":1,"finish_reason":"stop"}]}"#);
    assert_eq!((other.begun, other.ended), (0, 0));
}

/// An index as upstreams write it, and the bit it stands for.
fn index() -> impl Strategy<Value = (Option<String>, u32)> {
    prop_oneof![
        4 => (0_u32..128).prop_map(|i| (Some(i.to_string()), i)),
        1 => (0_u32..128).prop_map(|i| (Some(format!("{i}.0")), i)),
        1 => (128_u64..).prop_map(|i| (Some(i.to_string()), 0)),
        1 => (i64::MIN..0).prop_map(|i| (Some(i.to_string()), 0)),
        1 => prop::sample::select(vec!["null", "true", "\"5\"", "[5]", "{\"index\":5}", "5.5", "1e999"])
            .prop_map(|odd| (Some(odd.to_owned()), 0)),
        1 => Just((None, 0)),
    ]
}

proptest! {
    #[test]
    fn choices_are_told_apart_by_their_indexes_alone(
        choices in prop::collection::vec((index(), any::<bool>(), any::<bool>()), 0..8),
    ) {
        let (mut items, mut begun, mut ended) = (Vec::new(), 0_u128, 0_u128);
        for ((index, bit), finished, index_last) in &choices {
            let reason = format!(r#""finish_reason":{}"#, if *finished { "\"stop\"" } else { "null" });
            let mut fields = vec![r#""delta":{"index":9}"#.to_owned(), reason];
            if let Some(index) = index {
                fields.insert(if *index_last { 2 } else { 0 }, format!(r#""index":{index}"#));
            }
            items.push(format!("{{{}}}", fields.join(",")));
            begun |= 1 << bit;
            ended |= u128::from(*finished) << bit;
        }
        let data = format!(r#"{{"index":7,"choices":[{}]}}"#, items.join(","));
        for dialect in [Dialect::Chat, Dialect::Completions] {
            let peek = event(dialect, &data);
            prop_assert_eq!((peek.begun, peek.ended), (begun, ended), "{}", data);
            prop_assert_eq!(peek.terminal, ended != 0);
        }
        for dialect in [Dialect::Embeddings, Dialect::Responses, Dialect::Other] {
            let peek = event(dialect, &data);
            prop_assert_eq!((peek.begun, peek.ended), (0, 0), "{:?}", dialect);
        }
    }
}
