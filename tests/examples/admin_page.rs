//! The page of the example `admin` in a browser: by keyboard, by mouse, in the light and in the dark.

use serde_json::json;

use crate::browser::Browser;
use crate::examples::admin::{TOKEN, admin};
use crate::support::Example;

/// The page, when it has shown the connections.
fn opened(example: &Example) -> Option<Browser> {
    let folder = example.dir.join("chromium");
    let mut browser = Browser::open(&format!("http://{}/#token={TOKEN}", example.first), &folder)?;
    browser.until("document.querySelectorAll('#connections tbody tr').length > 0");
    Some(browser)
}

/// Waits until the page has asked for the connections so often again.
fn refreshed(browser: &mut Browser, times: u64) {
    let asked = "performance.getEntriesByName(location.origin + '/status').length";
    let before = browser.value(asked).as_u64().unwrap();
    browser.until(&format!("{asked} >= {}", before + times));
}

/// A name of what has the focus.
const FOCUSED: &str = "(e => e.id || e.dataset.key || e.textContent)(document.activeElement)";

/// All that can be used, in its order.
const USABLE: &str = "[...document.querySelectorAll('button, input, select')].filter(e => e.checkVisibility()).map(e => e.id || \
                      e.dataset.key || e.textContent)";

/// Whether a line is around what has the focus.
const OUTLINED: &str = "(s => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 1)(getComputedStyle(document.activeElement))";

#[test]
fn everything_is_reached_by_tab_and_seen_and_a_connection_is_aborted_without_a_mouse() {
    let mut example = admin();
    let mut client = example.tcp();
    client.ask("I am Zoë\n", "I am Zoë\n");
    let Some(mut browser) = opened(&example) else { return };
    let wanted = browser.value(USABLE);
    let wanted: Vec<&str> =
        wanted.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert!(wanted.len() > 15, "{wanted:?}");
    // The page goes on refreshing meanwhile.
    for name in &wanted {
        browser.press("Tab");
        assert_eq!(browser.value(FOCUSED), *name, "of {wanted:?}");
        assert_eq!(browser.value(OUTLINED), true, "the focus on {name} is seen");
    }
    assert!(wanted.last().unwrap().starts_with("Abort "), "{wanted:?}");
    // A refresh leaves the focus where it is.
    refreshed(&mut browser, 2);
    assert_eq!(browser.value(FOCUSED), *wanted.last().unwrap());
    browser.press("Enter");
    browser.until("document.getElementById('ask').open");
    browser.press("Escape");
    browser.until("!document.getElementById('ask').open");
    assert_eq!(browser.value(FOCUSED), *wanted.last().unwrap(), "it is back");
    browser.press("Enter");
    browser.until("document.getElementById('ask').open && document.activeElement.id === 'no'");
    browser.press("Tab");
    browser.until("document.activeElement.id === 'yes'");
    browser.press("Enter");
    assert!(client.ends());
    browser.until("document.querySelectorAll('#connections tbody tr').length === 0");
    // What had the focus is gone: it is in the same table still.
    browser.until("document.getElementById('connections').contains(document.activeElement)");
    drop(browser);
    example.terminate();
    assert!(example.wait().success());
}

#[test]
fn a_click_counts_even_if_the_page_is_refreshed_between_its_press_and_its_release() {
    let example = admin();
    let mut client = example.tcp();
    client.ask("I am Zoë\n", "I am Zoë\n");
    let Some(mut browser) = opened(&example) else { return };
    let button = "#connections tbody button.stop";
    browser.value(&format!(
        "document.querySelector('{button}').scrollIntoView({{ block: 'center' }})"
    ));
    browser.mouse("mousePressed", button);
    refreshed(&mut browser, 2);
    browser.mouse("mouseReleased", button);
    browser.until("document.getElementById('ask').open");
}

#[test]
fn the_page_is_light_or_dark_as_the_system_is() {
    let example = admin();
    let _client = example.tcp();
    let Some(mut browser) = opened(&example) else { return };
    let mut light = |scheme: &str| {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        browser.call("Emulation.setEmulatedMedia", &features);
        let of = |browser: &mut Browser, what: &str| {
            let colour = browser.value(&format!("getComputedStyle(document.body).{what}"));
            let text = colour.as_str().unwrap().to_owned();
            let numbers =
                text.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u32>().ok());
            numbers.sum::<u32>()
        };
        (of(&mut browser, "backgroundColor"), of(&mut browser, "color"))
    };
    let (ground, ink) = light("light");
    assert!(ground > 600 && ink < 200, "{ground} {ink}");
    let (ground, ink) = light("dark");
    assert!(ground < 200 && ink > 600, "{ground} {ink}");
}
