"""The web configuration: what of the toolkit's format is taken, and what is refused by name, file and line."""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path

import bcrypt
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from exporter.serving import tls
from exporter.serving.config import ClientAuth, RateLimit, WebConfig, WebConfigError, parse
from exporter.serving.tls import make_context
from exporter.tests.certificates import Authority, Pair

FILE = Path("/etc/latido/web.yml")
HASH = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: /keys/server.key\n"


def test_whole_file() -> None:
    config = parse(
        TLS + "  client_auth_type: RequireAndVerifyClientCert\n"
        "  client_ca_file: ca.crt\n"
        "  client_allowed_sans: [prometheus.example, '10.0.0.1']\n"
        "  min_version: TLS13\n"
        "  max_version: TLS13\n"
        "  cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256]\n"
        "  prefer_server_cipher_suites: false\n"
        "  curve_preferences: [X25519]\n"
        "http_server_config:\n"
        "  http2: false\n"
        "  headers:\n"
        "    Strict-Transport-Security: max-age=31536000\n"
        "    X-Frame-Options: deny\n"
        "    X-XSS-Protection:\n"
        f"basic_auth_users:\n  prometheus: {HASH}\n  'josé': {HASH}\n"
        "rate_limit:\n  interval: 500ms\n  burst: 20\n",
        FILE,
    )
    assert config.tls is not None
    assert Path("/etc/latido/server.crt") == config.tls.certificate
    assert Path("/keys/server.key") == config.tls.key
    assert Path("/etc/latido/ca.crt") == config.tls.client_ca
    assert config.tls.client_auth is ClientAuth.REQUIRED
    assert config.tls.allowed_sans == frozenset({"prometheus.example", "10.0.0.1"})
    assert config.tls.min_version is config.tls.max_version is ssl.TLSVersion.TLSv1_3
    assert config.tls.ciphers == ("ECDHE-RSA-CHACHA20-POLY1305",)
    assert not config.tls.prefer_server_ciphers
    assert config.tls.curve == "X25519"
    assert config.headers == {"Strict-Transport-Security": "max-age=31536000", "X-Frame-Options": "deny"}
    assert config.users == {b"prometheus": HASH.encode(), "josé".encode(): HASH.encode()}
    assert config.rate_limit == RateLimit(0.5, 20)
    assert config.authenticates


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "{}", "null", "tls_server_config:\n", "tls_server_config: {}\nbasic_auth_users: {}\n"]
)
def test_file_that_asks_for_nothing(text: str) -> None:
    assert parse(text, FILE) == WebConfig()


def test_defaults_are_the_toolkits() -> None:
    config = parse(TLS, FILE)
    assert config.tls is not None
    assert config.tls.client_auth is ClientAuth.NONE
    assert (config.tls.min_version, config.tls.max_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert config.tls.prefer_server_ciphers
    assert not config.authenticates


REFUSED = [
    ("nonsense: 1\n", ":1: unknown key 'nonsense'"),
    ("- list\n", ":1: expected `key: value` lines"),
    ("a: [\n", ":2: not YAML"),
    ("[" * 5000, ": not YAML: lists within lists"),
    ("tls_server_config: &a\n  cert_file: *a\n", "tls_server_config"),
    ("tls_server_config:\n  min_version: TLS13\n", ":2: tls_server_config: cert_file is missing"),
    ("tls_server_config:\n  cert_file: a\n", ":2: tls_server_config: key_file is missing"),
    (TLS + "  cert: x\n", ":2: tls_server_config.cert_file: cert is given too"),
    (TLS + "  cert_file: other\n", ":4: 'cert_file' is given twice"),
    (TLS + "  min_version: TLS10\n", ":4: tls_server_config.min_version: TLS10 is broken"),
    (TLS + "  min_version: TLS14\n", ":4: tls_server_config.min_version: expected TLS12 or TLS13"),
    (TLS + "  min_version: TLS13\n  max_version: TLS12\n", ":4: tls_server_config.min_version: is above max_version"),
    (TLS + "  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n", ":4: tls_server_config.cipher_suites: 'TLS_RSA_WITH_RC4"),
    (TLS + "  cipher_suites: [TLS_AES_128_GCM_SHA256]\n", "names no suite of TLS 1.2"),
    (TLS + "  cipher_suites: TLS_AES_128_GCM_SHA256\n", ":4: tls_server_config.cipher_suites: expected a list"),
    (TLS + "  curve_preferences: [X25519, CurveP256]\n", ":4: tls_server_config.curve_preferences: Python's TLS takes"),
    (TLS + "  curve_preferences: [secp224r1]\n", ":4: tls_server_config.curve_preferences: expected one of"),
    (
        TLS + "  client_auth_type: RequireAnyClientCert\n",
        ":4: tls_server_config.client_auth_type: RequireAnyClientCert",
    ),
    (TLS + "  client_auth_type: Sometimes\n", ":4: tls_server_config.client_auth_type: expected one of NoClientCert"),
    (
        TLS + "  client_auth_type: RequireAndVerifyClientCert\n",
        ":4: tls_server_config.client_auth_type: needs client_ca",
    ),
    (TLS + "  client_ca_file: ca\n", ":4: tls_server_config.client_ca_file: needs client_auth_type"),
    (TLS + "  client_allowed_sans: [a]\n", ":4: tls_server_config.client_allowed_sans: needs client_auth_type"),
    (
        TLS + "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: c\n  client_allowed_sans: []\n",
        ":6: tls_server_config.client_allowed_sans: is empty",
    ),
    (TLS + "  prefer_server_cipher_suites: yes\n", ":4: tls_server_config.prefer_server_cipher_suites: expected true"),
    ("http_server_config:\n  http2: true\n", ":2: http_server_config.http2: HTTP/2 is not spoken here"),
    ("http_server_config:\n  headers:\n    X-Powered-By: me\n", ":3: unknown key 'X-Powered-By'"),
    ("http_server_config:\n  headers:\n    X-Frame-Options: allow\n", ":3: http_server_config.headers.X-Frame-Options"),
    ('http_server_config:\n  headers:\n    X-XSS-Protection: "0\\r\\nSet-Cookie: a"\n', "expected one line"),
    ("basic_auth_users:\n  me: plain\n", ":2: basic_auth_users.me: expected a bcrypt hash"),
    (f"basic_auth_users:\n  me: {HASH.replace('$04$', '$15$')}\n", ":2: basic_auth_users.me: its bcrypt cost is 15"),
    (f"basic_auth_users:\n  me: {HASH.replace('$04$', '$03$')}\n", ":2: basic_auth_users.me: its bcrypt cost is 3"),
    (f"basic_auth_users:\n  'a:b': {HASH}\n", "holds no colon"),
    (f"basic_auth_users:\n  me: {HASH}\n  me: {HASH}\n", ":3: 'me' is given twice"),
    ("rate_limit:\n  interval: soon\n", ":2: rate_limit: expected a duration"),
    ("rate_limit:\n  interval: 1s\n", ":2: rate_limit: a burst of 0"),
    ("rate_limit:\n  interval: 1s\n  burst: 0\n", ":3: rate_limit.burst: a burst of 0"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED, ids=[expected[:60] for _, expected in REFUSED])
def test_mistake_is_named_with_file_and_line(text: str, expected: str) -> None:
    with pytest.raises(WebConfigError) as caught:
        parse(text, FILE)
    assert str(caught.value).startswith(str(FILE))
    assert expected in str(caught.value)


@pytest.mark.parametrize("text", [f"basic_auth_users:\n  me: {HASH}x\n", f"basic_auth_users: [{HASH}\n"])
def test_error_repeats_no_hash(text: str) -> None:
    with pytest.raises(WebConfigError) as caught:
        parse(text, FILE)
    assert HASH[7:] not in str(caught.value)


def test_key_is_not_shown() -> None:
    config = parse("tls_server_config:\n  cert: CERT\n  key: PRIVATE\n", FILE)
    assert "PRIVATE" not in repr(config)


_SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from([HASH, "TLS13", "1s"])
_KEYS = st.sampled_from(
    ["tls_server_config", "http_server_config", "headers", "basic_auth_users", "rate_limit", "cert_file", "burst", "x"]
)
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def outcome(text: str) -> str | None:
    """Return what is wrong with a file; whatever else is raised is a defect."""
    try:
        parse(text, FILE)
    except WebConfigError as error:
        return str(error)
    return None


@given(_DOCUMENTS)
def test_any_document_parses_or_is_refused(document: object) -> None:
    message = outcome(yaml.safe_dump(document, allow_unicode=True))
    assert message is None or message.startswith(f"{FILE}:")


@given(st.text())
def test_any_text_parses_or_is_refused(text: str) -> None:
    message = outcome(text)
    assert message is None or message.startswith(str(FILE))


# --- files that TLS names ---


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def tls_config(folder: Path, more: str = "") -> WebConfig:
    return parse(f"tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n{more}", folder / "web.yml")


def context_of(config: WebConfig) -> ssl.SSLContext:
    assert config.tls is not None
    return make_context(config.tls)


def test_context_is_as_the_file_says(tmp_path: Path, authority: Authority) -> None:
    authority.server().write(tmp_path, "server")
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    context = context_of(
        tls_config(
            tmp_path,
            "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.crt\n  max_version: TLS12\n"
            "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n"
            "  prefer_server_cipher_suites: false\n  curve_preferences: [CurveP384]\n",
        )
    )
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.maximum_version is ssl.TLSVersion.TLSv1_2
    old = [item["name"] for item in context.get_ciphers() if item["protocol"] == "TLSv1.2"]
    assert old == ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-GCM-SHA256"]
    assert not context.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert len(context.get_ca_certs()) == 1


def test_pem_may_stand_in_the_file(tmp_path: Path, authority: Authority) -> None:
    pair = authority.server()
    document = {
        "tls_server_config": {
            "cert": pair.certificate.decode(),
            "key": pair.key.decode(),
            "client_ca": authority.pem.decode(),
            "client_auth_type": "VerifyClientCertIfGiven",
        }
    }
    context = context_of(parse(yaml.safe_dump(document), tmp_path / "web.yml"))
    assert context.verify_mode is ssl.CERT_OPTIONAL


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        ("missing", "web.yml:2: tls_server_config.cert_file: .*server.crt cannot be read: No such file"),
        ("junk", "web.yml:2: tls_server_config.cert_file: certificate and key do not form a pair"),
        ("other key", "web.yml:2: tls_server_config.cert_file: certificate and key do not form a pair"),
        ("encrypted", "web.yml:3: tls_server_config.key_file: the key is encrypted"),
        ("huge", "web.yml:2: tls_server_config.cert_file: .* is larger than"),
        ("authority", "web.yml:4: tls_server_config.client_ca_file: holds no certificate"),
    ],
)
def test_unusable_file_is_named(tmp_path: Path, authority: Authority, broken: str, expected: str) -> None:
    """An encrypted key above all: OpenSSL would ask for its password on the terminal."""
    pair, other = authority.server(), authority.server()
    encrypted = authority.client(password=b"x")
    written = {
        "junk": Pair(b"junk", pair.key),
        "other key": Pair(pair.certificate, other.key),
        "encrypted": encrypted,
        "huge": Pair(b"\n" * (tls.MAX_PEM + 1), pair.key),
    }.get(broken, pair)
    if broken != "missing":
        written.write(tmp_path, "server")
    (tmp_path / "ca.crt").write_text("nothing" if broken == "authority" else authority.pem.decode())
    config = tls_config(tmp_path, "  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n")
    with pytest.raises(WebConfigError, match=expected):
        context_of(config)


@pytest.mark.parametrize(
    ("sans", "expected"),
    [
        ({"prometheus.example"}, True),
        ({"Prometheus.example"}, False),
        ({"10.0.0.1"}, True),
        ({"fd00::1"}, True),
        ({"ops@example.org"}, True),
        ({"spiffe://example.org/prometheus"}, True),
        ({"example"}, False),
        ({"other", "10.0.0.1"}, True),
        (None, True),
    ],
)
def test_names_of_a_certificate(sans: set[str] | None, expected: bool) -> None:  # noqa: FBT001 - a table's column
    certificate = {
        "subjectAltName": (
            ("DNS", "prometheus.example"),
            ("IP Address", "10.0.0.1"),
            ("IP Address", "FD00:0:0:0:0:0:0:1"),
            ("email", "ops@example.org"),
            ("URI", "spiffe://example.org/prometheus"),
            ("Registered ID", "1.2.3"),
        )
    }
    assert tls.allowed(certificate, None if sans is None else frozenset(sans)) is expected


def test_certificate_without_names_is_none_of_those_allowed() -> None:
    assert not tls.allowed({"subject": ()}, frozenset({"a"}))


# --- the documentation's examples ---


def test_documented_examples_work_here_and_in_promtool(
    tmp_path: Path, authority: Authority, promtool: Path, repository: Path
) -> None:
    """Debian's promtool is of 2023: it does not know the keys that came later."""
    text = (repository / "docs" / "web-configuration.md").read_text()
    examples = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(examples) >= 4
    authority.server().write(tmp_path, "server")
    (tmp_path / "clients-ca.crt").write_bytes(authority.pem)
    file = tmp_path / "web.yml"
    checked = 0
    for example in examples:
        config = parse(example, file)
        assert config != WebConfig()
        if config.tls is not None:
            context_of(config)
        if "client_allowed_sans" not in example and "rate_limit" not in example:
            file.write_text(example)
            subprocess.run([promtool, "check", "web-config", file], check=True, capture_output=True, timeout=30)
            checked += 1
    assert checked >= 3


def test_every_key_is_documented(repository: Path) -> None:
    from exporter.serving import config  # noqa: PLC0415 - its tables of keys, which nothing else needs

    text = (repository / "docs" / "web-configuration.md").read_text()
    for key in (*config._TOP, *config._TLS, *config._HEADERS, "http2", "headers", "interval", "burst"):
        assert f"`{key}`" in text, key
