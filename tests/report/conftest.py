"""A browser without a window."""

import shutil

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

# --no-sandbox: CI is root in a container, where Chromium's sandbox does not start; swiftshader: WebGL without a GPU
OPTIONS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--enable-unsafe-swiftshader"]


@pytest.fixture(scope="package")
def browser():
    """Chromium, or Chrome, with its driver; what neither is there for is skipped."""
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    chromedriver = shutil.which("chromedriver")
    if binary is None or chromedriver is None:
        pytest.skip("needs a browser: Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in OPTIONS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(chromedriver))
    yield driver
    driver.quit()
