"""The live page in Debian's Chromium, with real exporters, an API, a database and a bridge behind it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from bridge_ws.tests.rig import Writer, now_ms
from bridge_ws.tests.samples import cpu, procesos, process, ram
from dev.browser import chromium
from dev.fleet import Fleet, running_fleet
from dev.mariadb import Mariadb
from dev.program import Program, Start
from dev.waiting import wait_for
from latido import settings
from tests import history

HOSTS = ("web-1", "web-2", "web-10")
HOSTILE = b"<script>x()\x1b\n\xff"
HOSTILE_SHOWN = r"<script>x()\x1b\x0a" + "�"
TOKEN = "a-token-of-the-test-0123456789abcdef"  # noqa: S105 - it is of this test alone
SECONDS = 60_000.0
DESKTOP = (1280, 800)
PHONE = (390, 844)

expect.set_options(timeout=SECONDS)


@dataclass
class Watched:
    """A page of a context of its own, with what it asked for and what went wrong in it."""

    page: Page
    bridge: Program
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, place: str = "") -> Page:
        """Go to a place of the page and wait for the feed."""
        self.page.goto(f"{self.bridge.url}/{place}")
        self.live()
        return self.page

    def live(self) -> None:
        expect(self.page.locator(".chip")).to_have_text("Live")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium until the module's tests are over."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def fleet(mariadb: Mariadb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Run three hosts' exporters, an API and a bridge until the module's tests are over."""
    with running_fleet(mariadb.create_database("latido_page"), HOSTS, tmp_path_factory.mktemp("page")) as started:
        yield started


@contextmanager
def watching(
    browser: Browser, bridge: Program, size: tuple[int, int] = DESKTOP, theme: str = "light"
) -> Iterator[Watched]:
    """Yield a page in which nothing may go wrong, and that may ask nobody but its bridge."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if theme == "dark" else "light"
    )
    watched = Watched(context.new_page(), bridge)
    watched.page.set_default_timeout(SECONDS)
    watched.page.on("request", lambda request: watched.requests.append(request.url))
    watched.page.on("websocket", lambda socket: watched.requests.append(socket.url))
    watched.page.on("pageerror", lambda error: watched.errors.append(str(error)))
    watched.page.on(
        "console", lambda said: watched.errors.append(said.text) if said.type in {"error", "warning"} else None
    )
    yield watched
    context.close()
    own = (f"http://127.0.0.1:{bridge.port}/", f"ws://127.0.0.1:{bridge.port}/ws")
    assert watched.requests
    assert [] == [url for url in watched.requests if not url.startswith(own)]
    assert [] == watched.errors


@pytest.fixture
def desk(browser: Browser, fleet: Fleet) -> Iterator[Watched]:
    """Return a page of desktop size."""
    with watching(browser, fleet.bridge) as watched:
        yield watched


@pytest.fixture
def hostile() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process whose name is a script element with an escape, a line end and a broken character."""
    script = f"open('/proc/self/comm', 'wb').write({HOSTILE!r}); print('named', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert b"named\n" == started.stdout.readline()
        yield started
        started.kill()


def column(page: Page, name: str) -> list[str]:
    """Return what a column of the process table shows, in one moment."""
    cells: list[str] = page.evaluate(
        f"[...document.querySelectorAll('td.{name}')].map((cell) => cell.innerText.trim())"
    )
    return cells


def attribute(page: Page, selector: str, name: str) -> int:
    """Return a number that the page has in an attribute."""
    return int(page.locator(selector).first.get_attribute(name) or 0)


def drawn(page: Page) -> list[bool]:
    """Return, for each column of pixels of the CPU chart's plot, whether something but the grid is drawn in it."""
    columns: list[bool] = page.evaluate("""() => {
      const plot = document.querySelector(".chart .u-over").getBoundingClientRect();
      const canvas = document.querySelector(".chart canvas");
      const box = canvas.getBoundingClientRect();
      const scale = canvas.width / box.width;
      const left = Math.ceil((plot.left - box.left) * scale), width = Math.floor(plot.width * scale);
      // The lowest line of pixels above the axis: a stack of areas reaches it wherever there is a value.
      const top = Math.floor((plot.bottom - box.top) * scale) - 4;
      const copy = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      copy.canvas.width = width;
      copy.drawImage(canvas, left, top, width, 1, 0, 0, width, 1);
      const line = copy.getImageData(0, 0, width, 1).data;
      const swatch = document.createElement("canvas").getContext("2d");
      swatch.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--c-user");
      swatch.fillRect(0, 0, 1, 1);
      const [red, green, blue] = swatch.getImageData(0, 0, 1, 1).data;
      return Array.from({ length: width }, (_, x) => {
        const off = [line[4 * x] - red, line[4 * x + 1] - green, line[4 * x + 2] - blue].map(Math.abs);
        return line[4 * x + 3] > 128 && Math.max(...off) < 40;
      });
    }""")
    return columns


def test_the_first_load_shows_every_host_with_its_figures(desk: Watched) -> None:
    page = desk.open()
    assert "Latido" == page.title()
    tiles = page.locator("a.tile")
    expect(tiles).to_have_count(len(HOSTS))
    assert list(HOSTS) == page.locator(".tile-name").all_inner_texts()  # web-2 before web-10
    for host in HOSTS:
        tile = page.locator(f'a.tile[data-host="{host}"]')
        for figure in tile.locator(".figure b").all():
            expect(figure).to_contain_text("%")
        expect(tile.locator(".spark-line")).to_have_attribute("d", re.compile(r"^M[\d.]+,[\d.]+L"))
        expect(tile).to_contain_text(re.compile(r"\d+ processes"))
        expect(tile.locator(".busiest span").nth(1)).to_have_text(re.compile(r"\d+ %"))
    expect(page.locator(".totals")).to_have_text(re.compile(r"[\d.]+ of \d+ CPUs · .* of .* · \d+ processes"))
    tiles.first.click()
    expect(page.locator("h1")).to_have_text(HOSTS[0])
    assert "web-1 · Latido" == page.title()
    page.go_back()
    expect(tiles).to_have_count(len(HOSTS))


def test_figures_and_processes_move_without_a_click(desk: Watched) -> None:
    page = desk.open("#/host/web-1")
    before = attribute(page, ".host-head", "data-sampled-at")
    wait_for(lambda: attribute(page, ".host-head", "data-sampled-at") > before, "a newer sample is shown")
    page.get_by_label("Filter processes").fill("page-guest")
    expect(page.locator(".scroll .empty")).to_have_text("No process matches the filter.")
    name = "open('/proc/self/comm', 'w').write('page-guest')"
    burn = "import sys\nwhile True: sum(range(99999))"
    with subprocess.Popen([sys.executable, "-c", f"{name}\n{burn}"]) as guest:
        expect(page.locator("td.pid")).to_have_text([str(guest.pid)])
        expect(page.locator("td.cpu")).to_have_text([re.compile(r"^[1-9][\d.]* %$")])
        guest.kill()
    expect(page.locator("td.pid")).to_have_count(0)


def test_ten_minutes_of_history_are_there_at_once(browser: Browser, database: str, start: Start) -> None:
    """Stored before the page was opened, so that nothing but a backfill can bring it."""
    writer, now = Writer(settings.dsn(database)), now_ms()
    writer.commit(*(cpu(seq, now - 600_000 + 5_000 * seq) for seq in range(1, 121)), host="past-1")
    writer.close()
    with watching(browser, start("bridge", dsn=database)) as watched:
        page = watched.open("#/host/past-1")
        expect(page.locator("figure.chart").first).to_contain_text("user")

        def share() -> float:
            columns = drawn(page)
            return sum(columns) / max(1, len(columns))

        wait_for(lambda: share() > 0.9, "ten minutes are drawn", 60)
        words = re.compile(r"^CPU over the last 10 minutes; now user [\d.]+ %")
        expect(page.locator(".chart .plot").first).to_have_attribute("aria-label", words)


def test_a_lost_connection_is_told_and_what_was_missed_is_filled_in(
    browser: Browser, fleet: Fleet, start: Start
) -> None:
    bridge = start("bridge", dsn=fleet.dsn)
    with watching(browser, bridge) as watched:
        lose_and_find(watched, fleet.dsn)
        # Chromium says of every try that nothing listened; the page cannot keep that from its console.
        watched.errors = [error for error in watched.errors if "ERR_CONNECTION_REFUSED" not in error]


def lose_and_find(watched: Watched, dsn: str) -> None:
    page = watched.open("#/host/web-2")
    shown = attribute(page, ".host-head", "data-sampled-at")
    wait_for(lambda: sum(drawn(page)) > 0, "the chart is drawn")
    assert 0 == watched.bridge.stop()
    expect(page.locator(".chip")).to_have_text("Disconnected")
    expect(page.locator(".banner")).to_contain_text("Connection lost")
    expect(page.locator(".banner")).to_contain_text("the bridge stops")
    missed = newest(dsn, "web-2") + 6  # longer than a pause that a chart bridges
    wait_for(lambda: newest(dsn, "web-2") > missed, "samples come in the meantime", 60)
    watched.bridge.start()
    watched.live()
    expect(page.locator(".banner")).to_contain_text("Connected again after")
    wait_for(lambda: attribute(page, ".host-head", "data-sampled-at") > shown, "a newer sample is shown")

    def holes() -> int:
        columns = drawn(page)
        first, last = columns.index(True), len(columns) - columns[::-1].index(True)
        return columns[first:last].count(False)

    wait_for(lambda: holes() == 0, "nothing is missing in the chart", 60)
    expect(page.locator(".banner")).to_have_count(0)  # said, and gone


def newest(dsn: str, host: str) -> int:
    """Return the newest sample of a host's `cpu` that is stored, 0 where none is."""
    sql = "SELECT COALESCE(MAX(seq), 0) FROM cpu JOIN hosts ON hosts.id = cpu.host_id WHERE hosts.name = %s"
    return int(history.query(dsn, sql, host)[0][0])


def test_processes_are_sorted_filtered_and_a_tree(desk: Watched) -> None:
    page = desk.open("#/host/web-1")
    expect(page.locator("td.pid").first).to_be_visible()
    page.get_by_role("button", name="PID").click()
    expect(page.locator("th.pid")).to_have_attribute("aria-sort", "ascending")
    pids = [int(pid) for pid in column(page, "pid")]
    assert len(pids) > 3
    assert sorted(pids) == pids
    page.get_by_role("button", name="PID").click()
    expect(page.locator("th.pid")).to_have_attribute("aria-sort", "descending")
    pids = [int(pid) for pid in column(page, "pid")]
    assert sorted(pids, reverse=True) == pids

    page.get_by_label("Filter processes").fill("mariadbd")
    expect(page.locator("td.command").first).to_have_text("mariadbd")
    assert {"mariadbd"} == set(column(page, "command"))
    every = page.locator(".processes .count").inner_text()
    assert int(every.split(" of ")[0]) == len(column(page, "pid")) < int(every.split(" of ")[1])

    page.get_by_role("button", name="Tree", exact=True).click()
    row = page.locator("tr[aria-level]", has_text="mariadbd").first
    expect(row).to_be_visible()
    levels = page.evaluate("[...document.querySelectorAll('tr[aria-level]')].map((row) => +row.ariaLevel)")
    assert 1 == levels[0] < max(levels)  # its ancestors are there though they do not match
    shown = len(levels)
    page.locator("tr[aria-level='1'] .fold").first.click()
    wait_for(lambda: len(column(page, "pid")) < shown, "a folded parent hides its children")

    page.get_by_role("button", name="Tree", exact=True).click()
    page.locator("tr", has_text="mariadbd").first.click()
    expect(page.get_by_role("complementary")).to_contain_text("Resident")


def test_the_keyboard_is_enough(desk: Watched) -> None:
    page = desk.open()
    expect(page.locator("a.tile")).to_have_count(len(HOSTS))
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    expect(page.locator('a.tile[data-host="web-2"]')).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("web-10")
    expect(page.locator("a.tile")).to_have_count(1)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("web-10")
    expect(page.locator("td.pid").first).to_be_visible()
    page.keyboard.press("t")
    expect(page.get_by_role("treegrid")).to_be_visible()
    page.keyboard.press("t")
    page.keyboard.press("/")
    page.keyboard.type("mariadbd")
    expect(page.locator("td.command").first).to_have_text("mariadbd")
    page.keyboard.press("Enter")
    expect(page.locator("tr[aria-selected='true'] td.command")).to_have_text("mariadbd")
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary")).to_contain_text("Started")
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.get_by_label("Filter processes")).to_have_value("")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator("a.tile")).to_have_count(len(HOSTS))


@pytest.mark.parametrize("place", ["", "#/host/web-1"])
def test_it_fits_a_phone(browser: Browser, fleet: Fleet, place: str) -> None:
    with watching(browser, fleet.bridge, PHONE) as watched:
        page = watched.open(place)
        expect(page.locator(".tile, td.pid").first).to_be_visible()
        wide = """() => [...document.querySelectorAll("body *")]
          .filter((each) => each.getBoundingClientRect().right > innerWidth + 1 && !each.closest(".uplot"))
          .map((each) => each.outerHTML.slice(0, 80))"""
        assert [] == page.evaluate(wide)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, fleet: Fleet, theme: str) -> None:
    with watching(browser, fleet.bridge, theme=theme) as watched:
        page = watched.open()
        expect(page.locator(".busiest span").nth(1)).to_contain_text("%")
        check(page, "the fleet")
        page.get_by_role("button", name="Keyboard and help").click()
        check(page, "the help")
        page.keyboard.press("Escape")
        page.goto(f"{fleet.bridge.url}/#/host/web-1")
        expect(page.locator("td.cpu", has_text="%").first).to_be_visible()
        check(page, "a host")
        page.locator("td.command").first.click()
        page.keyboard.press("t")
        expect(page.get_by_role("treegrid")).to_be_visible()
        check(page, "a process and the tree")


def check(page: Page, what: str) -> None:
    """Hold the page as it is now to every rule of axe-core."""
    violations = [
        (what, each["id"], [node["html"][:200] for node in each["nodes"]][:3])
        for each in Axe().run(page).response["violations"]
    ]
    assert [] == violations


def test_a_hostile_name_is_text(desk: Watched, hostile: subprocess.Popen[bytes]) -> None:
    page = desk.open("#/host/web-1")
    scripts = page.evaluate("document.scripts.length")
    page.get_by_label("Filter processes").fill(f"<script> {hostile.pid}")
    expect(page.locator("td.command")).to_have_text(HOSTILE_SHOWN)
    page.locator("td.command").click()
    expect(page.get_by_role("complementary")).to_contain_text(HOSTILE_SHOWN)
    row = page.locator("td.command").bounding_box()
    assert row is not None
    assert row["height"] < 30  # the line end did not make a second line
    assert scripts == page.evaluate("document.scripts.length")


def test_a_wrong_and_a_right_token(browser: Browser, fleet: Fleet, start: Start, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n", encoding="utf-8")
    tokens.chmod(0o600)
    bridge = start("bridge", flags=(f"--auth.token-file={tokens}",), dsn=fleet.dsn)
    with watching(browser, bridge) as watched:
        page = watched.page
        page.goto(bridge.url)
        field = page.get_by_label("This bridge wants a token")
        field.fill("not-the-token-0123456789abcdef0123456")
        check(page, "the form")
        field.press("Enter")
        field = page.get_by_label("That token was not accepted")
        field.fill(TOKEN)
        field.press("Enter")
        watched.live()
        expect(page.locator("a.tile").first).to_be_visible()


def test_a_hundred_hosts_are_shown_and_all_of_them_move(browser: Browser, database: str, start: Start) -> None:
    """Each host's process table has a hundred rows, and the next samples reach every tile."""
    bridge = start("bridge", dsn=database)
    writer = Writer(settings.dsn(database))
    names = [f"node-{number:03}" for number in range(100)]
    table = [process(pid, pid) for pid in range(1, 101)]

    def tick(seq: int) -> int:
        at = now_ms()
        for name in names:
            for sample in (cpu(seq, at), ram(seq, at), procesos(seq, at, table, keyframe=True)):
                writer.store(sample, host=name)
        writer.commit()
        return at

    tick(1)
    with watching(browser, bridge) as watched:
        page = watched.open()
        expect(page.locator("a.tile")).to_have_count(100)
        expect(page.locator("h1")).to_have_text("100 hosts")
        for seq in (2, 3):
            at = tick(seq)
            shown = "[...document.querySelectorAll('a.tile')].map((tile) => +tile.dataset.sampledAt)"
            wait_for(lambda: {at} == set(page.evaluate(shown)), "every tile shows the newest", 60)  # noqa: B023
        page.get_by_label("Search hosts").fill("node-07")
        expect(page.locator("a.tile")).to_have_count(10)
        check(page, "ten of a hundred")
    writer.close()
