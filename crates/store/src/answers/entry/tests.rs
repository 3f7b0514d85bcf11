use super::*;
use proptest::prelude::*;

const HOUR: Duration = Duration::from_hours(1);

fn kept(pieces: &[Bytes]) -> Kept {
    let head =
        Head { status: 200, content_type: "text/event-stream".into(), streamed: true, about: "{}".into() };
    Kept::new(head, pieces, "digest", HOUR, HOUR * 2)
}

fn sealer() -> Sealer {
    Sealer::new(Some(b"secret"))
}

fn resealed(sealer: &Sealer, key: &Key, entry: &[u8]) -> Bytes {
    let mut body = entry[..entry.len() - SEAL].to_vec();
    let seal = sealer.seal(key, &body);
    body.extend_from_slice(&seal);
    body.into()
}

#[tokio::test(start_paused = true)]
async fn an_entry_comes_back_as_it_was_with_its_age() {
    let (sealer, key) = (sealer(), sealer().key(&[b"k"]));
    for piece in [Bytes::from("short"), Bytes::from("long ".repeat(1000))] {
        let kept = kept(&[piece.clone(), Bytes::new(), Bytes::from("data: [DONE]\n\n")]);
        let entry = encode(&sealer, &key, &kept).unwrap();
        assert!(entry.len() < 700, "compressed: {}", entry.len());
        let back = decode(&sealer, &key, &entry, HOUR * 2).unwrap();
        assert_eq!((&back.head, &back.pieces, &back.note), (&kept.head, &kept.pieces, &kept.note));
        assert_eq!((back.ttl, back.life, back.age()), (HOUR, HOUR * 3, HOUR));
        assert!(back.is_stale());
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_of_another_key_secret_or_version_is_none() {
    let (sealer, key) = (sealer(), sealer().key(&[b"k"]));
    let entry = encode(&sealer, &key, &kept(&[Bytes::from("x")])).unwrap();
    let none = |sealer: &Sealer, key: &Key, entry: &Bytes| decode(sealer, key, entry, HOUR).is_none();
    assert!(!none(&sealer, &key, &entry));
    assert!(none(&sealer, &sealer.key(&[b"l"]), &entry));
    assert!(none(&Sealer::new(Some(b"other")), &key, &entry));
    assert!(none(&Sealer::new(None), &key, &entry));
    let mut version = entry.to_vec();
    version[3] = 2;
    assert!(none(&sealer, &key, &resealed(&sealer, &key, &version)));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_size_is_refused_even_under_a_good_seal() {
    let (sealer, key) = (sealer(), sealer().key(&[b"k"]));
    let entry = encode(&sealer, &key, &kept(&[Bytes::from("long ".repeat(1000))])).unwrap();
    assert_eq!(entry[4], ZSTD);
    for size in [0, 100, READ_MAX as u32 + 1, u32::MAX] {
        let mut bomb = entry.to_vec();
        bomb[5..9].copy_from_slice(&size.to_le_bytes());
        assert!(decode(&sealer, &key, &resealed(&sealer, &key, &bomb), HOUR).is_none(), "{size}");
    }
}

#[tokio::test(start_paused = true)]
async fn kept_pieces_do_not_hold_the_buffers_they_came_in() {
    let buffer = Bytes::from(vec![b'x'; 1 << 20]);
    let kept = kept(&[buffer.slice(..10), buffer.slice(100..110)]);
    assert!(!buffer.as_ptr_range().contains(&kept.pieces[0].as_ptr()));
    assert_eq!(kept.pieces[0], buffer.slice(..10));
    assert!(kept.weight() < 1000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_changed_byte_or_a_cut_makes_it_none(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..6),
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
    ) {
        let (sealer, key) = (Sealer::new(None), sealer().key(&[b"k"]));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let pieces: Vec<_> = pieces.into_iter().map(Bytes::from).collect();
        let entry = encode(&sealer, &key, &kept(&pieces)).unwrap();
        prop_assert_eq!(&decode(&sealer, &key, &entry, HOUR).unwrap().pieces, &pieces);
        let at = at.index(entry.len());
        let mut broken = entry.to_vec();
        broken[at] ^= change;
        prop_assert!(decode(&sealer, &key, &broken.into(), HOUR).is_none());
        prop_assert!(decode(&sealer, &key, &entry.slice(..at), HOUR).is_none());
    }

    #[test]
    fn bytes_under_a_good_seal_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let (sealer, key) = (Sealer::new(None), sealer().key(&[b"k"]));
        let mut entry = MAGIC.to_vec();
        entry.push(PLAIN);
        entry.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        entry.append(&mut bytes);
        let seal = sealer.seal(&key, &entry);
        entry.extend_from_slice(&seal);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let _ = decode(&sealer, &key, &entry.into(), HOUR);
    }
}
