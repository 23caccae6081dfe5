"""`amgt-fed compare`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

QUICK_METHODS = "fedavg,stc,amgt"
QUICK: dict[str, bool] = {"tune": False}
DEFAULT_METHODS = "fedavg,fedavgm,fedprox,fedadam,scaffold,int8,qsgd,topk,stc,eden,powersgd,amgt"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="compare")(compare)


def compare(
    methods: Annotated[
        str | None, typer.Option("--methods", "-m", help="Names with commas; --list shows them.")
    ] = None,
    tasks: Annotated[str | None, typer.Option("--tasks", "-t", help="Names with commas.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Numbers with commas.")] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", "-n", help="Of each run; default: the task's own.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Runs at once; 0: one per core.")] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Its directory; default runs/compare-TIME.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the comparison in --out.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Three methods, one seed, no search for rates.")] = False,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Directory of the larger data sets.")] = None,
    tune: Annotated[bool | None, typer.Option("--tune/--no-tune", help="Search for each method's rates first.")] = None,
    rates: Annotated[
        str | None, typer.Option("--rates", help="The search's first row, as multiples of the starting rate.")
    ] = None,
    tune_rounds: Annotated[int | None, typer.Option("--tune-rounds", help="Rounds of a run of the search.")] = None,
    tune_seed: Annotated[
        int | None, typer.Option("--tune-seed", help="Seed of the search; not a reported one.")
    ] = None,
    methods_file: Annotated[Path | None, typer.Option("--methods-file", help="A TOML file with your methods.")] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="A further target, e.g. 'accuracy>=0.95'; may be repeated.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", metavar="KEY=VALUE", help="One key, for all methods.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print compare.json instead of the tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the methods, and do nothing else.")] = False,
) -> None:
    """Run methods beside each other: the same work, seeds and bytes counted, each with its own tuned rates."""
    from amgt_fed.cli.comparing import CompareProgress, print_methods, print_results
    from amgt_fed.cli.run import TELEMETRY_OFF

    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    from amgt_fed.compare import Plan, parse_factors, pick_methods, read_methods
    from amgt_fed.compare import compare as run_all
    from amgt_fed.compare.report import to_json
    from amgt_fed.config import parse_override
    from amgt_fed.errors import StateError

    own = read_methods(methods_file) if methods_file is not None else {}
    if list_:
        print_methods(own)
        return
    if resume and out is None:
        raise StateError("--resume needs the comparison's directory; name it with --out")
    saved = Plan.load(out) if resume and out is not None else None
    given: dict[str, Any] = {name: getattr(saved, name) for name in Plan.__dataclass_fields__} if saved else {}
    if quick:
        given.update(QUICK)
    named = methods or (None if saved else ",".join([QUICK_METHODS if quick else DEFAULT_METHODS, *own]))
    if named is not None:
        earlier = {method.name: method for method in saved.methods} if saved else {}
        given["methods"] = pick_methods(_names(named), {**earlier, **own})
    if tasks is not None or not saved:
        given["tasks"] = _names(tasks or "digits")
    if seeds is not None or not saved:
        given["seeds"] = _numbers(seeds or ("0" if quick else "0,1,2"))
    choices = {"rounds": rounds, "tune": tune, "tune_rounds": tune_rounds, "tune_seed": tune_seed}
    given.update({name: value for name, value in choices.items() if value is not None})
    if rates is not None:
        given["factors"] = parse_factors(rates).factors
    if data_dir is not None:
        given["data_dir"] = str(data_dir.expanduser().resolve())
    if target:
        given["targets"] = tuple(target)
    if set_:
        given["common"] = {**given.get("common", {}), **dict(parse_override(text) for text in set_)}
    plan = Plan(**given)
    folder = out or Path("runs") / f"compare-{time.strftime('%Y%m%d-%H%M%S')}"
    with CompareProgress(quiet=quiet or as_json) as progress:
        results = run_all(plan, folder, jobs=jobs, resume=resume, on_change=progress.on_change)
    if as_json:
        print(to_json(results), end="")
    else:
        print_results(results, folder.resolve())


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    from amgt_fed.errors import ConfigError

    try:
        numbers = tuple(int(part) for part in _names(text))
    except ValueError:
        raise ConfigError(f"--seeds {text!r} are not whole numbers; write e.g. --seeds 0,1,2") from None
    if any(number < 0 for number in numbers):
        raise ConfigError(f"--seeds {text!r} hold a number below 0; seeds are 0 or more")
    return numbers
