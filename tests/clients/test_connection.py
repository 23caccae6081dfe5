"""A bundle says where the server is, who the device is and which clients it may be."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from amgt_fed.errors import AMGTFedError
from amgt_fed.link import Address
from clients.connection import connection
from clients.nodes import chosen_partitions, hosted_nodes
from tests.helpers.fleets import make_fleet


def test_a_bundle_is_enough(tmp_path: Path) -> None:
    bundles = make_fleet(tmp_path, ["pi"], server="10.1.2.3:7171")
    found = connection(None, bundles["pi"], insecure=False, ca=None, cert=None, key=None)
    assert found.address == Address("10.1.2.3", 7171)
    assert found.tls is not None
    assert found.bundle is not None
    assert chosen_partitions(None, None, None, found.bundle) == [0]
    (node,) = hosted_nodes([0], None, None, found.tls, None, None, None)
    assert (node.name, node.node_config) == ("pi", {"partition-id": 0})
    elsewhere = connection("127.0.0.1:1", bundles["pi"], insecure=False, ca=None, cert=None, key=None)
    assert elsewhere.address == Address("127.0.0.1", 1)


def test_a_bundle_put_over_the_old_one_is_read_again(tmp_path: Path) -> None:
    bundles = make_fleet(tmp_path, ["pi"])
    found = connection(None, bundles["pi"], insecure=False, ca=None, cert=None, key=None)
    assert found.certificates() is found.tls
    make_fleet(tmp_path / "second", ["pi"])["pi"].replace(bundles["pi"])
    renewed = found.certificates()
    assert renewed is not found.tls
    assert found.certificates() is renewed


def test_a_range_hosts_all_its_clients_and_no_others(tmp_path: Path) -> None:
    bundles = make_fleet(tmp_path, ["host"], partitions=(3, 5))
    bundle = connection(None, bundles["host"], insecure=False, ca=None, cert=None, key=None).bundle
    assert chosen_partitions(None, None, None, bundle) == [3, 4, 5]
    assert chosen_partitions(4, None, None, bundle) == [4]
    assert chosen_partitions(None, None, "4-5", bundle) == [4, 5]
    for number, nodes in ((2, None), (6, None), (None, "4-6")):
        with pytest.raises(AMGTFedError, match="bundle is for 3 to 5"):
            chosen_partitions(number, None, nodes, bundle)


def test_two_ways_at_once_or_none_are_refused(tmp_path: Path) -> None:
    bundles = make_fleet(tmp_path, ["pi"])
    with pytest.raises(AMGTFedError, match="--bundle brings its certificates"):
        connection(None, bundles["pi"], insecure=True, ca=None, cert=None, key=None)
    with pytest.raises(AMGTFedError, match="give --bundle FILE, or --server"):
        connection(None, None, insecure=True, ca=None, cert=None, key=None)
    with pytest.raises(AMGTFedError, match=r"pass --bundle \(or --ca"):
        connection("127.0.0.1:1", None, insecure=False, ca=None, cert=None, key=None)


def test_a_bundle_that_ends_soon_or_that_others_may_read_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundles = make_fleet(tmp_path, ["pi"], days=5)
    bundles["pi"].chmod(0o640)
    with caplog.at_level(logging.WARNING):
        connection(None, bundles["pi"], insecure=False, ca=None, cert=None, key=None)
    assert "others may read" in caplog.text
    assert "ends in 4 days" in caplog.text
