from __future__ import annotations

from pathlib import Path

import pytest

from amgt_fed.link import Address, CredentialsError, PlaintextRefused, Tls, TlsFiles, choose_security
from tests.reference.certificates import Authority

LOOPBACK, ELSEWHERE = Address("127.0.0.1", 7070), Address("192.0.2.1", 7070)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def test_plaintext_needs_both_the_flag_and_loopback(authority: Authority) -> None:
    assert choose_security(LOOPBACK, insecure=True, files=None) is None
    with pytest.raises(PlaintextRefused, match="no certificates were given"):
        choose_security(LOOPBACK, insecure=False, files=None)
    with pytest.raises(PlaintextRefused, match=r"192\.0\.2\.1:7070 is not"):
        choose_security(ELSEWHERE, insecure=True, files=None)
    issued = authority.issue("server")
    with pytest.raises(CredentialsError, match="both --insecure and certificates"):
        choose_security(LOOPBACK, insecure=True, files=TlsFiles(authority.certificate, issued.certificate, issued.key))


def test_good_files_load_and_tell_the_common_name(authority: Authority) -> None:
    issued = authority.issue("jetson-7")
    tls = choose_security(
        ELSEWHERE, insecure=False, files=TlsFiles(authority.certificate, issued.certificate, issued.key)
    )
    assert tls is not None
    assert tls.common_name == "jetson-7"


def test_each_bad_file_is_named(authority: Authority, tmp_path: Path) -> None:
    good, other = authority.issue("a"), authority.issue("b")
    expired, future = authority.issue("old", days=-1), tmp_path / "absent.key"
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    cases = [
        (TlsFiles(tmp_path / "absent.crt", good.certificate, good.key), "absent.crt: No such file"),
        (TlsFiles(authority.certificate, good.certificate, future), "absent.key: No such file"),
        (TlsFiles(garbage, good.certificate, good.key), "garbage.pem holds no CA certificate"),
        (TlsFiles(authority.certificate, garbage, good.key), "garbage.pem"),
        (TlsFiles(authority.certificate, good.certificate, garbage), "garbage.pem"),
        (TlsFiles(authority.certificate, good.certificate, other.key), "not a certificate and its key"),
        (TlsFiles(authority.certificate, expired.certificate, expired.key), "expired on"),
        (TlsFiles(tmp_path, good.certificate, good.key), "Is a directory"),
    ]
    for files, says in cases:
        with pytest.raises(CredentialsError) as caught:
            Tls.load(files)
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
