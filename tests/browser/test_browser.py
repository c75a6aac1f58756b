"""The test ground itself: a page that breaks a rule is noticed."""

from __future__ import annotations

import pytest
from browser_checks import check_accessible, check_fits, watch

pytestmark = pytest.mark.browser

START = "<!doctype html><html lang='en'><title>Page</title><main><h1>Page</h1>"


def test_check_accessible_sound_page_passes(page):
    page.set_content(f"{START}<p>Some words.</p></main>")
    check_accessible(page)
    check_fits(page)


def test_check_accessible_pale_words_and_unnamed_picture_are_findings(page):
    page.set_content(
        f"{START}<p style='color: #ccc; background: #fff'>pale</p><img src='data:,'></main>"
    )
    with pytest.raises(AssertionError, match=r"color-contrast \(serious\)") as caught:
        check_accessible(page)
    assert "image-alt (critical)" in str(caught.value)
    check_accessible(page, without=("color-contrast", "image-alt"))


def test_check_fits_wide_element_is_noticed(page):
    page.set_content(f"{START}<p style='width: 1500px'>wide</p></main>")
    with pytest.raises(AssertionError, match="wider than the window"):
        check_fits(page)


def test_watch_outside_request_and_console_error_are_noticed(browser):
    context = browser.new_context()
    errors, leaving = watch(context)
    page = context.new_page()
    page.set_content(f"{START}</main>")
    page.evaluate("console.error('wrong'), fetch('http://abhinaya.invalid/x').catch(() => 0)")
    context.close()
    assert errors[0] == "wrong"
    assert leaving == ["http://abhinaya.invalid/x"]
