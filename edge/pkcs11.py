"""Device keys in a token: whatever has a PKCS#11 module (SoftHSM, smart cards, secure elements, a TPM through its own).

The key is made in the token and cannot be taken out of it; a signature is asked for over the module. Ed25519 where the
token knows it, else ECDSA over P-256, in the one spelling that the format allows (lower s, compressed point).

A token that is pulled out or whose session is lost ends the agent with one line: a new process asks for the PIN's file
and the token anew, and what was not sealed is still in the outbox.
"""

import hashlib
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edge.key import TOKEN_PREFIX, read_secret
from ledger.errors import MalformedError
from ledger.keys import ECDSA_P256, ED25519, SIGNATURE_SIZE, check_public_key, raw_signature
from vitalseal.errors import UserError

if TYPE_CHECKING:
    from pkcs11 import Session

_PATH, _QUERY = ("token", "object"), ("module-path", "pin-source")
_FILE = "file:"
_ED25519_OID = "1.3.101.112"  # RFC 8410
# What stands in `object` behind the name that a person gave, once the key was rotated: a dash and 8 hex digits.
_ROTATED = re.compile(r"-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class TokenUri:
    """A PKCS#11 URI (RFC 7512): labels of token and key, the module that reaches it, and the PIN's file, 0600."""

    token: str
    object: str
    module: Path
    pin: Path

    def __str__(self) -> str:
        path = f"token={quote(self.token, safe='')};object={quote(self.object, safe='')}"
        return f"{TOKEN_PREFIX}{path}?module-path={quote(str(self.module))}&pin-source={_FILE}{quote(str(self.pin))}"


def parse_uri(text: str) -> TokenUri:
    """The URI in `text`, of which all four parts are needed and none other known; raises UserError."""
    path, _, query = text.removeprefix(TOKEN_PREFIX).partition("?")
    found = {}
    for part, known in [(part, _PATH) for part in path.split(";")] + [(part, _QUERY) for part in query.split("&")]:
        key, equals, value = part.partition("=")
        if not equals or key in found or key not in known:
            # Never the value: people put PINs there, though this program takes none.
            raise UserError(f"pkcs11 URI: {key!r}: known, once each, are {', '.join((*_PATH, *_QUERY))}")
        found[key] = unquote(value)
    if missing := [key for key in (*_PATH, *_QUERY) if not found.get(key)]:
        raise UserError(f"pkcs11 URI: names no {missing[0]}")
    if not found["pin-source"].startswith(_FILE):
        raise UserError(f"pkcs11 URI: pin-source is not {_FILE}<path of a file with the PIN, mode 0600>")
    module, pin = Path(found["module-path"]), Path(found["pin-source"].removeprefix(_FILE))
    if not (module.is_absolute() and pin.is_absolute()):
        raise UserError("pkcs11 URI: module-path and pin-source are not absolute paths")
    return TokenUri(found["token"], found["object"], module, pin)


def beside(text: str) -> str:
    """The URI of another key in the same token."""
    uri = parse_uri(text)
    name = f"{_ROTATED.sub('', uri.object)}-{secrets.token_hex(4)}"
    return str(TokenUri(uri.token, name, uri.module, uri.pin))


def open_key(text: str, *, create: bool = False) -> "TokenSigner":
    """The key that the URI `text` names; with `create` it is made, not extractable, if the token has none of the name.

    Raises:
        UserError: the extra, the module, the token, its PIN or the key is missing or wrong.
    """
    uri = parse_uri(text)
    try:
        import pkcs11
    except ImportError:
        raise UserError(
            "a key in a token needs python-pkcs11: in vitalseal's clone, type  pip install '.[pkcs11]'"
        ) from None
    with _explained(uri):
        try:
            library = pkcs11.lib(str(uri.module))
        except RuntimeError as error:
            raise UserError(f"pkcs11: {uri.module}: {error}") from None
        token, pin = library.get_token(token_label=uri.token), read_secret(uri.pin, "PIN")
        try:
            session = token.open(rw=create, user_pin=pin)
        except pkcs11.UserAlreadyLoggedIn:
            session = token.open(rw=create)  # a process logs in once a token: a rotation has two keys open
        private = _find(session, uri.object)
        if private is None:
            if not create:
                raise UserError(f"pkcs11: token {uri.token!r} holds no private key {uri.object!r}")
            private = _generate(session, uri.object)
        return TokenSigner(uri, session, private)


class TokenSigner:
    """A `ledger.keys.Signer` whose private key is in a token. Any thread may sign; one does at a time."""

    def __init__(self, uri: TokenUri, session: "Session", private: Any) -> None:
        import pkcs11

        self._uri = uri
        self._session = session  # held: closing it takes the key's handle along
        self._private = private
        self._lock = threading.Lock()
        with _explained(uri):
            public = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, label=uri.object)
            point = _octets(public[pkcs11.Attribute.EC_POINT])
        if private.key_type == pkcs11.KeyType.EC_EDWARDS:
            self.algorithm, self.public_key = ED25519, point
        else:
            self.algorithm, self.public_key = ECDSA_P256, _compressed(uri, point)
        try:
            check_public_key(self.algorithm, self.public_key)
        except MalformedError as error:
            raise UserError(f"pkcs11: key {uri.object!r} in token {uri.token!r}: {error}") from None

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`; raises UserError when the token is gone."""
        import pkcs11

        with self._lock, _explained(self._uri):
            if self.algorithm == ED25519:
                return bytes(self._private.sign(message, mechanism=pkcs11.Mechanism.EDDSA))
            # Hashed here: not every token hashes, all sign a digest.
            raw = self._private.sign(hashlib.sha256(message).digest(), mechanism=pkcs11.Mechanism.ECDSA)
            r, s = (int.from_bytes(half, "big") for half in (raw[: SIGNATURE_SIZE // 2], raw[SIGNATURE_SIZE // 2 :]))
            return raw_signature(encode_dss_signature(r, s))


def _find(session: "Session", label: str) -> Any:
    """The private key of this name, None if there is none; python-pkcs11 has no type for what can sign."""
    import pkcs11

    try:
        return session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, label=label)
    except pkcs11.NoSuchKey:
        return None


def _generate(session: "Session", label: str) -> Any:
    """A key pair that stays in the token."""
    from pkcs11 import Attribute, KeyType, Mechanism
    from pkcs11.util.ec import encode_named_curve_parameters

    kind, curve, how = KeyType.EC, encode_named_curve_parameters("secp256r1"), Mechanism.EC_KEY_PAIR_GEN
    if _knows_ed25519(session):
        kind, how = KeyType.EC_EDWARDS, Mechanism.EC_EDWARDS_KEY_PAIR_GEN
        curve = encode_named_curve_parameters(_ED25519_OID)
    parameters = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: curve}, local=True)
    stays = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}
    _, private = parameters.generate_keypair(mechanism=how, store=True, label=label, private_template=stays)
    return private


def _knows_ed25519(session: "Session") -> bool:
    from pkcs11 import Mechanism

    return {Mechanism.EC_EDWARDS_KEY_PAIR_GEN, Mechanism.EDDSA} <= session.token.slot.get_mechanisms()


@contextmanager
def _explained(uri: TokenUri) -> Iterator[None]:
    """What the module complains of is a UserError of one line."""
    import pkcs11

    try:
        yield
    except pkcs11.PKCS11Error as error:
        why = _ADVICE.get(type(error).__name__, "is it plugged in? start again when it is")
        detail = f"{type(error).__name__} {error}".rstrip()
        raise UserError(f"pkcs11: token {uri.token!r}, key {uri.object!r}: {why} ({detail})") from None


_ADVICE = {
    "NoSuchToken": "no token with this label is there",
    "PinIncorrect": "the PIN in the file is wrong; most tokens lock after a few tries",
    "PinLocked": "the token is locked after wrong PINs",
    "MultipleObjectsReturned": "there are several keys with this label",
    "MultipleTokensReturned": "there are several tokens with this label",
    "TokenWriteProtected": "the token takes no new key",
}


def _octets(der: Any) -> bytes:
    """The bytes in a DER OCTET STRING shorter than 128; tokens that leave the wrapping out give them as they are."""
    data = bytes(der)
    return data[2:] if len(data) > 2 and data[0] == 4 and data[1] == len(data) - 2 else data


def _compressed(uri: TokenUri, point: bytes) -> bytes:
    try:
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
    except ValueError:
        raise UserError(f"pkcs11: key {uri.object!r} in token {uri.token!r} is neither Ed25519 nor P-256") from None
    return key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
