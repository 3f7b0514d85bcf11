use super::*;

fn one(prompt: u64) -> Usage {
    Usage { prompt, completion: 1, cached: 0 }
}

fn book(rows: usize) -> Book {
    let book = Book::default();
    (0..rows).for_each(|model| book.add("a".into(), model, one(10), 2.0));
    book
}

fn refused() -> Result<(), Failure> {
    Err(Failure::Refused("no".to_owned()))
}

#[test]
fn only_rows_that_the_store_refused_are_told_again() {
    let book = book(600);
    let taken = book.take();
    assert_eq!((taken.len(), book.take().len()), (600, 0));
    let left = book.heard(&taken, Ok(()));
    let left = book.heard(left, refused());
    assert_eq!(left.len(), 600 - 2 * AT_ONCE);
    assert!(book.heard(left, Err(Failure::Unknown)).is_empty());
    let again = book.take();
    assert_eq!(again.len(), AT_ONCE);
    assert!(again.iter().all(|row| taken[AT_ONCE..2 * AT_ONCE].contains(row)));
}

#[test]
fn what_is_owed_to_a_store_that_is_away_is_kept_and_added_to() {
    let book = book(300);
    let taken = book.take();
    let (_, last) = taken[299].0;
    book.add("a".into(), last, one(5), 1.0);
    let left = book.heard(&taken, Ok(()));
    assert!(book.heard(left, Err(Failure::Down)).is_empty(), "nothing more is tried");
    let again: HashMap<Who, Amount> = book.take().into_iter().collect();
    assert_eq!(again.len(), 300 - AT_ONCE);
    let both = Amount { requests: 2, prompt: 15, completion: 2, cached: 0, micro_usd: 3.0 };
    assert_eq!(again.get(&("a".into(), last)), Some(&both));
}

#[test]
fn figures_of_any_size_add_up_without_overflow() {
    let book = Book::default();
    let most = Usage { prompt: u64::MAX, completion: u64::MAX, cached: u64::MAX };
    book.add("".into(), 0, most, 1.0);
    book.add("".into(), 0, most, 1.0);
    let [(_, owed)] = book.take()[..] else { panic!("one row") };
    assert_eq!((owed.requests, owed.prompt, owed.completion), (2, u64::MAX, u64::MAX));
}
