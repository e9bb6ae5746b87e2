"""Raw events to features: this project on DuckDB and on Spark, and plain pandas, in turns on the same generated files.

    python -m benchmarks.features                          1 and 10 million events on all three, 50 million on DuckDB
    python -m benchmarks.features --sizes 1 --repeats 1    a first look

Each measurement is a fresh process: CSV to the primary table, everything included, peak memory of the process with all
its children. Writes its section of BENCHMARKS.md.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

if TYPE_CHECKING:
    import pandas as pd

PROJECT = Path(__file__).resolve().parent.parent
MILLION = 1_000_000
ENGINES = ("duckdb", "pandas", "spark")
#: Events per file. The generator makes the events of one file at a time, which bounds its memory.
_CHUNK = MILLION
_KINDS = np.array(["view", "cart", "purchase"])


# ---- the events --------------------------------------------------------------------------------------------------


def generate(millions: int, folder: Path) -> None:
    """Writes seeded CSV files of 1 million events each, in time order: 95 % views, 3 % carts, 2 % purchases.

    Users and products have heavy tails. A session has all events of a user in one quarter (6 h) of a day. 70 % of the
    events of a user are about a few products of their own, so the same ones are viewed, carted and bought.
    """
    folder.mkdir(parents=True)
    users, products = millions * 60_000, 40_000 + millions * 4_000
    for number in range(millions):
        rng = np.random.default_rng([20191001, millions, number])
        user = (users * rng.random(_CHUNK) ** 2.2).astype(np.int64)
        # A user's own products: a few ids next to each other.
        near = (user * 7919 + rng.geometric(0.35, _CHUNK)) % products
        popular = (products * rng.random(_CHUNK) ** 3).astype(np.int64)
        product = np.where(rng.random(_CHUNK) < 0.7, near, popular)
        kind = _KINDS[rng.choice(3, _CHUNK, p=[0.95, 0.03, 0.02])]
        seconds = np.sort(rng.integers(0, 86_400, _CHUNK)) + number * 86_400
        session = user * 100_003 + seconds // 21_600
        price = np.round(5 + (product * 2_654_435_761 % 100_000) / 100, 2)
        brand = np.array([f"brand-{i:03d}" for i in range(200)] + [None], object)[product % 201]
        codes = [f"department-{i % 12}.group-{i % 40}.kind-{i}" for i in range(120)]
        code = np.array([*codes, *[None] * 40], object)[product % 160]
        start = np.datetime64("2019-10-01T00:00:00", "s")
        table = pa.table(
            {
                "event_time": pa.array(np.datetime_as_string(start + seconds, unit="s")),
                "event_type": kind,
                "product_id": product + 1_000_000,
                "category_id": product % 160 + 2_053_013_550_000_000_000,
                "category_code": pa.array(code, pa.string()),
                "brand": pa.array(brand, pa.string()),
                "price": price,
                "user_id": user + 500_000_000,
                "user_session": pa.array(_uuids(session)),
            }
        )
        pyarrow.csv.write_csv(table, folder / f"part-{number:03d}.csv", pyarrow.csv.WriteOptions(quoting_style="none"))


def _uuids(session: np.ndarray) -> list[str]:
    texts = {
        number: f"{number >> 32:08x}-0000-4000-8000-{number & 0xFFFFFFFF:012x}" for number in set(session.tolist())
    }
    return [texts[number] for number in session.tolist()]


# ---- what is measured, each in a process of its own --------------------------------------------------------------


def run_duckdb(source: str, scratch: Path) -> int:
    """Runs load and the features of process, with the project's own functions; returns the number of rows."""
    from purchase_predict import database
    from purchase_predict.features import on_duckdb
    from purchase_predict.reading.load import load_source

    target, spill = scratch / "loaded", scratch / "spill"
    target.mkdir()
    spill.mkdir()
    load_source(source, target, spill, 0.01)
    with database.connect(spill) as connection:
        on_duckdb.primary_from_events(connection, target / "events")
        connection.execute(f"COPY primary_table TO '{scratch / 'primary.parquet'}'")
    return int(pq.read_metadata(scratch / "primary.parquet").num_rows)


def run_spark(source: str, scratch: Path) -> int:
    """Runs load with DuckDB, and the features on Spark with two local cores (`measure`); returns the number of rows."""
    from purchase_predict.features import on_spark
    from purchase_predict.reading.load import load_source

    target, spill = scratch / "loaded", scratch / "spill"
    target.mkdir()
    spill.mkdir()
    load_source(source, target, spill, 0.01)
    manifest = json.loads((target / "source.json").read_text())
    return on_spark.primary_from_events(
        f"file://{target / 'events'}", manifest["session_type"], manifest["crc32"], f"file://{scratch / 'primary'}"
    ).rows


SESSION, PAIR = ["user_id", "user_session"], ["user_id", "user_session", "product_id"]


def run_pandas(source: str, scratch: Path) -> int:
    """Computes the same columns as a data scientist might: with merges, groupings and running sums of whole tables."""
    import pandas as pd

    frames = [pd.read_csv(file, parse_dates=["event_time"]) for file in sorted(Path(source).glob("*.csv"))]
    events = pd.concat(frames, ignore_index=True)
    del frames
    events = events.drop_duplicates().dropna(subset=["user_session"]).sort_values("event_time", kind="stable")

    order = ["event_time", "price", "brand", "category_code", "category_id"]
    carts = events[events["event_type"] == "cart"].sort_values(order, na_position="last").drop_duplicates(PAIR)
    rows = carts[[*PAIR, *order[:4]]].reset_index(drop=True)
    inside = events.merge(rows[SESSION].drop_duplicates(), on=SESSION)
    mine = events[events["user_id"].isin(rows["user_id"])]
    rows = _with_session(rows, inside)
    rows = _with_product(rows, inside)
    rows = _with_earlier_sessions(rows, mine)
    rows = _with_shop(rows, events)
    _add_moment(rows)
    rows.drop(columns="visit_start").to_parquet(scratch / "primary.parquet", index=False)
    return len(rows)


def _with_session(rows: "pd.DataFrame", inside: "pd.DataFrame") -> "pd.DataFrame":
    """Adds the columns about the session up to the moment."""
    import pandas as pd

    # For each second with events in a session with a cart: the counts up to this second, and the counts before it.
    act = inside["event_type"] != "remove_from_cart"
    counted = inside[[*SESSION, "event_time"]].assign(
        views=inside["event_type"] == "view",
        carts=inside["event_type"] == "cart",
        removed=~act,
        purchases=inside["event_type"] == "purchase",
        cents=(inside["price"].fillna(0) * 100).round().where(inside["event_type"] == "cart", 0),
        products=~inside.assign(act=act).duplicated([*PAIR, "act"]) & act,
    )
    names = ["views", "carts", "removed", "purchases", "cents", "products"]
    by_second = counted.groupby([*SESSION, "event_time"], sort=True)[names].sum()
    so_far = by_second.groupby(level=SESSION).cumsum()
    before = so_far - by_second
    timeline = pd.DataFrame(
        {
            "num_views_session": so_far["views"],
            "num_carts_session": before["carts"],
            "cart_value_session": before["cents"] / 100,
            "num_products_session": before["products"],
            "num_removed_session": before["removed"],
            "num_purchases_session": before["purchases"],
        }
    ).reset_index()
    timeline["session_start"] = timeline.groupby(SESSION)["event_time"].transform("min")
    acted = inside.loc[act, [*SESSION, "event_time"]].drop_duplicates().sort_values("event_time")
    acted["prev_event"] = acted.groupby(SESSION)["event_time"].shift()
    return rows.merge(timeline, on=[*SESSION, "event_time"]).merge(acted, on=[*SESSION, "event_time"], how="left")


def _with_product(rows: "pd.DataFrame", inside: "pd.DataFrame") -> "pd.DataFrame":
    """Adds the label, and the number of views of the product in the session up to the moment."""
    bought = inside[inside["event_type"] == "purchase"].groupby(PAIR)["event_time"].max().rename("last_purchase")
    rows = rows.merge(bought, on=PAIR, how="left")
    rows["purchased"] = (rows.pop("last_purchase") >= rows["event_time"]).astype("int64")
    looks = inside.loc[inside["event_type"] == "view", [*PAIR, "event_time"]].rename(columns={"event_time": "seen"})
    seen = rows[[*PAIR, "event_time"]].merge(looks, on=PAIR)
    so_far_of_product = seen[seen["seen"] <= seen["event_time"]].groupby(PAIR).size().rename("num_views_product")
    return rows.merge(so_far_of_product, on=PAIR, how="left")


def _with_earlier_sessions(rows: "pd.DataFrame", mine: "pd.DataFrame") -> "pd.DataFrame":
    """Adds the columns about the user's earlier sessions."""
    first = mine[mine["event_type"] != "remove_from_cart"].groupby(SESSION)["event_time"].min()
    visits = first.rename("visit_start").reset_index()
    visits["num_prev_sessions"] = visits.groupby("user_id")["visit_start"].rank(method="min").astype("int64") - 1
    starts = visits[["user_id", "visit_start"]].drop_duplicates().sort_values("visit_start")
    starts["prev_start"] = starts.groupby("user_id")["visit_start"].shift()
    visits = visits.merge(starts, on=["user_id", "visit_start"])
    rows = rows.merge(visits, on=SESSION)

    known = rows[[*PAIR, "event_time", "visit_start"]]
    starts = visits[[*SESSION, "visit_start"]].rename(columns={"visit_start": "other_start"})

    def earlier(facts: "pd.DataFrame", on: list[str]) -> "pd.Series":
        facts = facts.merge(starts, on=SESSION).drop(columns="user_session")
        both = known.merge(facts, on=on, suffixes=("", "_other"))
        return (
            both[(both["other_start"] < both["visit_start"]) & (both["at"] <= both["event_time"])].groupby(PAIR).size()
        )

    views = mine[mine["event_type"] == "view"].groupby(PAIR)["event_time"].min().rename("at").reset_index()
    purchases = mine.loc[mine["event_type"] == "purchase", [*PAIR, "event_time"]].rename(columns={"event_time": "at"})
    for name, facts, on in (
        ("num_prev_product_views", views, ["user_id", "product_id"]),
        ("num_prev_purchases", purchases, ["user_id"]),
        ("num_prev_product_purchases", purchases, ["user_id", "product_id"]),
    ):
        rows = rows.merge(earlier(facts, on).rename(name), on=PAIR, how="left")
    return rows


def _with_shop(rows: "pd.DataFrame", events: "pd.DataFrame") -> "pd.DataFrame":
    """Adds the columns about the product, from the events of all users on the days before the row's day."""
    import pandas as pd

    acts = events[events["event_type"] != "remove_from_cart"]
    logs = (np.log(acts["price"].where(acts["price"] > 0)) * 1e6).round()
    product_day = ["product_id", "day"]
    counted = pd.DataFrame(
        {
            "product_id": acts["product_id"],
            "day": acts["event_time"].dt.floor("D"),
            "views": acts["event_type"] == "view",
            "carts": acts["event_type"] == "cart",
            "purchases": acts["event_type"] == "purchase",
            "logs": logs.fillna(0),
            "priced": logs.notna(),
        }
    )
    counters = counted.groupby(product_day).sum()
    rows["day"] = rows["event_time"].dt.floor("D")
    counters["carted_pairs"] = rows.groupby(product_day).size()
    purchases = events.loc[events["event_type"] == "purchase", [*PAIR, "event_time"]]
    bought = rows[[*PAIR, "event_time"]].merge(purchases, on=PAIR, suffixes=("", "_bought"))
    first = bought[bought["event_time_bought"] >= bought["event_time"]].groupby(PAIR)["event_time_bought"].min()
    counters["bought_pairs"] = first.dt.floor("D").rename("day").reset_index().groupby(product_day).size()
    counters = counters.fillna(0).sort_index()
    own = counters.groupby(level="product_id").cumsum() - counters
    daily = counters.groupby(level="day").sum()
    own = own.join((daily.cumsum() - daily).add_prefix("shop_"), on="day")

    def rate(of: str, per: str, mixed: int) -> "pd.Series":
        return (own[of] + mixed * own["shop_" + of] / own["shop_" + per]) / (own[per] + mixed)

    known = pd.DataFrame(
        {
            "product_conversion_rate": rate("bought_pairs", "carted_pairs", 20),
            "product_carts_per_view": rate("carts", "views", 100),
            "product_purchases_per_view": rate("purchases", "views", 100),
            "mean_log_price": own["logs"] / own["priced"],
        }
    )
    rows = rows.merge(known.reset_index(), on=product_day, how="left")
    logs = (np.log(rows["price"].where(rows["price"] > 0)) * 1e6).round()
    rows["product_relative_price"] = (logs - rows.pop("mean_log_price")) / 1e6
    return rows.drop(columns="day")


def _add_moment(rows: "pd.DataFrame") -> None:
    """Replaces missing counts by 0, and adds the columns that follow from the row: categories, clock and durations."""
    counts = [str(name) for name in rows if str(name).startswith("num_")]
    rows[counts] = rows[counts].fillna(0).astype("int64")
    parts = rows.pop("category_code").str.split(".", regex=False)
    rows["category"], rows["sub_category"] = parts.str[0], parts.str[1]
    moment = rows["event_time"]
    rows["hour"], rows["minute"], rows["weekday"] = moment.dt.hour, moment.dt.minute, moment.dt.day_of_week
    rows["duration"] = (moment - rows.pop("session_start")).dt.total_seconds()
    rows["seconds_since_prev_event"] = (moment - rows.pop("prev_event")).dt.total_seconds()
    rows["seconds_since_prev_session"] = (moment - rows.pop("prev_start")).dt.total_seconds()


# ---- measuring ---------------------------------------------------------------------------------------------------


def measure(engine: str, source: Path) -> dict[str, float]:
    """Runs one engine in a new process; returns wall seconds, CPU seconds, peak MiB of memory, and the row count."""
    environment = os.environ | {"SPARK_MASTER": "local[2]", "PYTHONPATH": str(PROJECT)}
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        command = [sys.executable, "-m", "benchmarks.features", "--run", engine, str(source), scratch]
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True)
        peak = Peak(process.pid)
        output, _ = process.communicate()
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(f"{engine} on {source.name} ended with {process.returncode}")
        peak.stop()
        return {"seconds": seconds, "cpu": peak.cpu, "mib": peak.bytes / 2**20, "rows": int(output.split()[-1])}


class Peak:
    """Watches a process and children such as Spark's JVM: `bytes` of resident memory at the peak, and `cpu` seconds."""

    def __init__(self, pid: int) -> None:
        self.pid, self.bytes, self.cpu, self.stopped = pid, 0, 0.0, threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join()

    def _watch(self) -> None:
        while not self.stopped.wait(0.05):
            memory, cpu = _used(self.pid)
            self.bytes, self.cpu = max(self.bytes, memory), max(self.cpu, cpu)


def _used(pid: int) -> tuple[int, float]:
    """Resident bytes and CPU seconds of a process and its children, at this time."""
    try:
        memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        children = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
    except OSError:
        return 0, 0.0
    cpu = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    below = [_used(int(child)) for child in children]
    return memory + sum(b for b, _ in below), cpu + sum(c for _, c in below)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 50], help="million events")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--most", type=int, default=10, help="million events above which DuckDB alone is run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="for the generated files; they are kept and used again")
    parser.add_argument("--no-table", action="store_true", help="leave BENCHMARKS.md as it is")
    parser.add_argument("--run", nargs=3, metavar=("ENGINE", "SOURCE", "SCRATCH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        engine, source, scratch = arguments.run
        runner = {"duckdb": run_duckdb, "spark": run_spark, "pandas": run_pandas}[engine]
        print(runner(source, Path(scratch)))
        return

    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        results: dict[tuple[int, str], list[dict[str, float]]] = {}
        for millions in arguments.sizes:
            source = folder / f"events-{millions}m"
            if not source.exists():
                generate(millions, source)
            engines = [name for name in arguments.engines if name == "duckdb" or millions <= arguments.most]
            for turn in range(arguments.repeats if millions <= 10 else 1):
                for engine in engines:
                    if engine == "spark" and turn:
                        continue  # one run is enough: it takes minutes, and a few percent of noise do not matter
                    result = measure(engine, source)
                    results.setdefault((millions, engine), []).append(result)
                    said = f"{result['seconds']:.1f} s ({result['cpu']:.1f} s of processor), {result['mib']:.0f} MiB"
                    print(f"{millions:3} million, {engine}: {said}", flush=True)
            rows = {result["rows"] for engine in engines for result in results[millions, engine]}
            if len(rows) != 1:
                raise SystemExit(f"the engines disagree: {rows} rows")
    if not arguments.no_table:
        write_table(results)


def write_table(results: dict[tuple[int, str], list[dict[str, float]]]) -> None:
    """Replaces the section between the marks in BENCHMARKS.md."""
    lines = [
        "| events | engine | seconds (median) | CPU seconds | peak memory | rows |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    for (millions, engine), measured in results.items():
        seconds = float(np.median([result["seconds"] for result in measured]))
        cpu = float(np.median([result["cpu"] for result in measured]))
        peak = max(result["mib"] for result in measured)
        lines.append(
            f"| {millions} million | {engine} | {seconds:.1f} | {cpu:.1f} | {peak / 1024:.2f} GiB "
            f"| {measured[0]['rows']:,.0f} |"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    lines += ["", f"{os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}."]
    file = PROJECT / "BENCHMARKS.md"
    begin, end = "<!-- features: begin -->", "<!-- features: end -->"
    section = "\n".join([begin, *lines, end])
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(f"{begin}.*?{end}", lambda _: section, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
