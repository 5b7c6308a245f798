"""What to ask of which web service: the selection, checked, and the addresses that ask for it."""

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from math import isfinite
from typing import get_args
from urllib.parse import urlencode, urlsplit

from data_prep.flatfile import MagnitudeRule

SERVICES = {"itaca": ("https://itaca.mi.ingv.it", "itaca40ws"), "esm": ("https://esm-db.eu", "esmws")}
_EVENT = {"format": "hdf5", "data-type": "ACC", "add-xml": "True", "add-auxiliary-data": "True"}


@dataclass(frozen=True)
class DownloadSettings:
    """What to ask of which service; checked when built (`ValueError`). The box is west, south, east, north."""

    service: str = "itaca"
    url: str = ""
    country: str = "IT"
    min_magnitude: float = 4.0
    max_depth_km: float = 50.0
    magnitude: MagnitudeRule = "Mw-or-Ml"
    start: str = ""
    end: str = ""
    box: tuple[float, ...] = ()
    processing: str = "MP,AP,CV"

    def __post_init__(self) -> None:
        if self.service not in SERVICES:
            raise ValueError(f"service {self.service!r}: expected {' or '.join(SERVICES)}")
        if self.url and not (urlsplit(self.url).scheme in ("http", "https") and urlsplit(self.url).hostname):
            raise ValueError(f"url {self.url!r}: expected an address such as {SERVICES[self.service][0]}")
        self._check_selection()
        self._check_box()
        dates = self._dates()
        if dates.get("starttime", "") > dates.get("endtime", "9999"):
            raise ValueError(f"start {self.start} is after end {self.end}; give the earlier date first")

    def _check_selection(self) -> None:
        for name in ("min_magnitude", "max_depth_km"):
            if not isfinite(getattr(self, name)):
                raise ValueError(f"{name} {getattr(self, name)}: a finite number expected")
        if not re.fullmatch("any|[A-Z]{2}", self.country):
            raise ValueError(f"country {self.country!r}: expected two capital letters such as IT, or any")
        if self.magnitude not in get_args(MagnitudeRule):
            raise ValueError(f"magnitude {self.magnitude!r}: expected {' or '.join(get_args(MagnitudeRule))}")
        if not re.fullmatch(r"(MP|AP|CV)(,(MP|AP|CV))*", self.processing):
            raise ValueError(f"processing {self.processing!r}: expected MP, AP, CV or several with commas: MP,AP")

    def _check_box(self) -> None:
        if not self.box:
            return
        west, south, east, north = self.box
        if not (-180 <= west < east <= 180 and -90 <= south < north <= 90):
            given = " ".join(f"{side:g}" for side in self.box)
            raise ValueError(f"box {given}: expected WEST SOUTH EAST NORTH in degrees, west < east and south < north")

    def flatfile_url(self) -> str:
        """Address of the flatfile: country, dates and box are selected by the service."""
        country = {} if self.country == "any" else {"event-country": self.country}
        sides = ("min-event-longitude", "min-event-latitude", "max-event-longitude", "max-event-latitude")
        box = {side: f"{degrees:.10g}" for side, degrees in zip(sides, self.box, strict=bool(self.box))}
        return self._address("flatfile", {"output-format": "csv"} | country | self._dates() | box)

    def event_url(self, event_id: str) -> str:
        """Address of one event's records."""
        return self._address("eventdata", {"eventid": event_id, "processing-type": self.processing} | _EVENT)

    def _dates(self) -> dict[str, str]:
        start = {"starttime": _moment(self.start, "00:00:00")} if self.start else {}
        return start | ({"endtime": _moment(self.end, "23:59:59")} if self.end else {})

    def _address(self, what: str, query: dict[str, str]) -> str:
        base, folder = SERVICES[self.service]
        return f"{(self.url or base).rstrip('/')}/{folder}/{what}/1/query?{urlencode(query, safe=',:')}"


def _moment(text: str, time_of_day: str) -> str:
    """A date, or a date with time, as the services take it; a date alone gets the time of day given."""
    for whole in (text, f"{text}T{time_of_day}"):
        with suppress(ValueError):
            return datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").isoformat()
    raise ValueError(f"date {text!r}: expected YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, such as 2016-10-30")
