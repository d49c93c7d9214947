"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The numbers of one server; two servers in a process share none."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "beit_requests",
            "Requests that were answered, by path and status.",
            ["path", "status"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "beit_request_seconds",
            "Time from the end of a request's head to the end of its answer.",
            ["path"],
            registry=self._registry,
        )
        self.batches = Histogram(
            "beit_batch_images",
            "Images that went through a model together.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self._registry,
        )
        self.waiting = Gauge(
            "beit_requests_waiting",
            "Requests at work or waiting for a model.",
            registry=self._registry,
        )
        self.restarts = Counter(
            "beit_models_restarts",
            "How often a process of the models died or hung, or a start in its place failed.",
            registry=self._registry,
        )
        self.reloads = Counter(
            "beit_models_reloads",
            "How often the artifacts were to be served anew, by what came of it.",
            ["result"],
            registry=self._registry,
        )
        for result in ("done", "failed"):
            self.reloads.labels(result)
        self.left = Counter(
            "beit_requests_left",
            "Requests whose client left before its answer.",
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All numbers as Prometheus reads them."""
        return generate_latest(self._registry)
