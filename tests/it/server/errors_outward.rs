//! Errors on their way out of this crate.

use std::num::ParseIntError;

use ropewalk::Error;
use ropewalk::layer::BoxError;

fn fails() -> ropewalk::Result<u16> {
    Ok("8007x".parse()?)
}

#[test]
fn a_question_mark_converts_to_a_boxed_error_and_back() {
    fn boxed() -> Result<u16, BoxError> {
        Ok(fails()?)
    }
    fn back() -> ropewalk::Result<u16> {
        let number = boxed().map_err(Error::other)?;
        Ok(number)
    }
    assert_eq!(boxed().unwrap_err().to_string(), "invalid digit found in string");
    assert!(back().unwrap_err().downcast_ref::<ParseIntError>().is_some());
}

#[test]
fn a_question_mark_converts_to_anyhow_and_back() {
    fn outward() -> anyhow::Result<u16> {
        Ok(fails()?)
    }
    fn back() -> ropewalk::Result<u16> {
        let number = outward().map_err(Error::other)?;
        Ok(number)
    }
    let error = outward().unwrap_err();
    assert_eq!(error.to_string(), "invalid digit found in string");
    let boxed = error.downcast_ref::<BoxError>().unwrap();
    assert!(boxed.is::<ParseIntError>());
    assert_eq!(back().unwrap_err().to_string(), "invalid digit found in string");
}
