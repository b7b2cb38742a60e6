"""A page in a browser: what it shows, and the hands of a reader."""

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.select import Select
from selenium.webdriver.support.wait import WebDriverWait

SECONDS = 60  # that a slow machine may take; nothing waits longer than it must


class Page:
    """A file opened without a server."""

    def __init__(self, driver, path, width=1280, height=1000):
        self.driver = driver
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get_log("browser")  # of the page before
        driver.get(path.as_uri())
        self.until(lambda: self.js("return document.documentElement.dataset.ready") == "yes")

    def reset(self):
        """Everything as it was when the page was opened."""
        self.js(
            "state.sort = {column: 0, descending: false}; state.rows = data.drawn.rows;"
            "element('metric').selectedIndex = 0; clear(); return chooseMetric(0)"
        )

    def js(self, code, *arguments):
        return self.driver.execute_script(code, *arguments)

    def until(self, condition):
        WebDriverWait(self.driver, SECONDS, poll_frequency=0.05).until(lambda _: condition())

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def find(self, css):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def rows(self):
        """The cells of the table."""
        return self.js(
            "return [...document.querySelectorAll('#trials tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
        )

    def column(self, index):
        return [row[index] for row in self.rows()]

    def sort(self, label):
        headings = self.driver.find_elements(By.CSS_SELECTOR, "#trials th button")
        next(heading for heading in headings if heading.text.rstrip(" ▲▼") == label).click()

    def row(self, uid):
        return self.find(f'#trials tr[data-uid="{uid}"]')

    def curves(self):
        """uid -> what is drawn of it, the lowest line first."""
        drawn = "t => [t.meta, {x: t.x, y: t.y, color: t.line.color, width: t.line.width, mode: t.mode}]"
        return dict(self.js(f"return document.getElementById('curves').data.map({drawn})"))

    def type_filter(self, words):
        self.find("#filter").clear()
        self.find("#filter").send_keys(words)

    def choose_metric(self, label):
        Select(self.find("#metric")).select_by_visible_text(label)

    def drag_along_axis(self, index, start, end):
        """Drags along an axis of the parallel coordinates, between shares of its height from below."""
        box = self.js(
            "const all = document.querySelectorAll('#parallel .axis-brush');"
            "all[arguments[0]].scrollIntoView({block: 'center'});"
            "const strip = all[arguments[0]].querySelector('.background-bar') ?? all[arguments[0]];"
            "const {left, width} = strip.getBoundingClientRect();"
            "const ticks = document.querySelectorAll('#parallel .y-axis')[arguments[0]].querySelector('.domain')"
            ".getBoundingClientRect();"
            "return [left + width / 2, ticks.bottom, ticks.height]",
            index,
        )
        x, bottom, height = box
        mouse = ActionChains(self.driver, duration=100)
        mouse.w3c_actions.pointer_action.move_to_location(round(x), round(bottom - start * height))
        mouse.w3c_actions.pointer_action.pointer_down()
        mouse.w3c_actions.pointer_action.move_to_location(round(x), round(bottom - (start + end) / 2 * height))
        mouse.w3c_actions.pointer_action.move_to_location(round(x), round(bottom - end * height))
        mouse.w3c_actions.pointer_action.pointer_up()
        mouse.perform()
