"""Joining a federation: keys made here, a binding by the organisation, the proof of the invitation, a certificate.

Each step leaves a file, so joining again goes on where it stopped. Nothing is sent to a server that the authority in
the invitation did not certify, and the invitation's secret is never sent.
"""

import hashlib
import time
from typing import Final

from hansa_client.calls import call, call_federation, enrolment_channel
from hansa_client.folder import SiteFolder
from hansa_client.membership import SiteMembership
from hansa_common.errors import IdentityError, PeerRefused, UsageError
from hansa_common.identity import NodeKeys, pin_of
from hansa_common.invitation import Invitation, prove, transcript
from hansa_common.organisation import BindingRequest
from hansa_common.roster import SignedBinding
from hansa_common.signing import sign
from hansa_common.wire.protocol import (
    ENROLMENT,
    BeginReply,
    BeginRequest,
    CertificateReply,
    Denial,
    Empty,
    EnrolRequest,
    LeaveRequest,
    NextRosterRequest,
    Nonce,
    RecoverRequest,
    RosterNotice,
)

_NOT_HEARD: Final = (Denial.NOT_A_MEMBER, Denial.REVOKED, Denial.FROZEN, Denial.UNKNOWN)
"""Why a coordinator takes no word of a site, not even that it leaves."""


def prepare(folder: SiteFolder, invitation: Invitation) -> BindingRequest:
    """Make the node's keys and say what the organisation has to sign.

    Raises:
        UsageError: The invitation has expired, or the folder is of another site.
        StorageError: The disk fails.
    """
    if time.time() >= invitation.expires:
        raise UsageError("The invitation has expired.", advice="Ask the coordinator for a new one.")
    if folder.has_joined:
        raise UsageError(
            f"{folder.path} has joined {folder.membership().federation} already.", advice="See 'site status'."
        )
    folder.create()
    keys = folder.make_keys()
    request = BindingRequest(federation=invitation.federation, site=invitation.site, keys=keys.public())
    before = folder.request()
    if before is not None and (before.federation, before.site) != (request.federation, request.site):
        raise UsageError(
            f"{folder.path} is the folder of {before.site} in {before.federation}.",
            advice="Name another folder with --folder.",
        )
    folder.save_request(request)
    return request


def join(folder: SiteFolder, invitation: Invitation, binding: SignedBinding) -> CertificateReply:
    """Prove the invitation and get a certificate; to do it again with the same keys is harmless.

    Raises:
        UsageError: The binding is for other keys or another site.
        IdentityError: The coordinator is not the one of the invitation.
        PeerRefused: It refused; the denial says why.
        Unreachable: It cannot be reached.
    """
    keys, bound = folder.keys(), binding.binding
    if (bound.federation, bound.site, bound.keys) != (invitation.federation, invitation.site, keys.public()):
        raise UsageError(
            "The binding is for other keys or another site.", advice="Have the organisation sign this node's request."
        )
    binding.verify()
    folder.save_binding(binding)  # the server knows an interrupted enrolment again by its binding
    proxy = folder.settings().proxy
    with enrolment_channel(invitation.enrolment, (invitation.authority,), proxy=proxy) as channel:
        begun = call(channel, ENROLMENT, "Begin", BeginRequest(), BeginReply)
        _check_roster(begun, invitation)
        request = enrol_request(keys, invitation, binding, nonce=begun.nonce)
        reply = call(channel, ENROLMENT, "Enrol", request, CertificateReply)
    folder.save_membership(SiteMembership.of(invitation), begun.roster, reply)
    return reply


def enrol_request(keys: NodeKeys, invitation: Invitation, binding: SignedBinding, *, nonce: Nonce) -> EnrolRequest:
    """Accept the roster and prove the invitation, over everything that the coordinator is told."""
    request_pem = keys.certificate_request()
    statement = transcript(
        invitation=invitation.id,
        nonce=nonce,
        authority_pin=pin_of(invitation.authority_certificate()),
        roster=invitation.roster,
        binding=binding,
        certificate_request=request_pem,
    )
    return EnrolRequest(
        invitation=invitation.id,
        nonce=nonce,
        roster=invitation.roster,
        binding=binding,
        certificate_request=request_pem,
        acceptance=sign(keys.signing, "acceptance", statement),
        proof=prove(invitation.secret, statement),
    )


def _check_roster(begun: BeginReply, invitation: Invitation) -> None:
    """Hold the coordinator's roster against the invitation before anything is proved to it.

    A later version than the invitation's is accepted on the founder's signature: other sites joined meanwhile.
    """
    begun.roster.verify(invitation.founder)
    roster, pin = begun.roster.roster, pin_of(invitation.authority_certificate())
    if roster.federation != invitation.federation or pin not in roster.coordinator.certificate_authorities:
        raise IdentityError("The coordinator's roster is of another federation or names another authority.")
    if roster.digest() != invitation.roster and roster.version == 1:
        raise IdentityError("The coordinator's roster is not the one that the invitation names.")


def recover(folder: SiteFolder) -> None:
    """Get a new certificate for an expired one, with the node key that the roster binds.

    Rosters that the site missed come first: the certificate may be of an authority that only a later one has.

    Raises:
        IdentityError: A roster does not follow, or the certificate is not this site's.
        PeerRefused, Unreachable: As the coordinator or the network has it.
    """
    keys, membership = folder.keys(), folder.membership()
    request_pem = keys.certificate_request()
    with enrolment_channel(membership.enrolment, folder.authorities(), proxy=folder.settings().proxy) as channel:
        begun = call(channel, ENROLMENT, "Begin", BeginRequest(), BeginReply)
        while (version := folder.roster().roster.version) < begun.roster.roster.version:
            missed = call(channel, ENROLMENT, "NextRoster", NextRosterRequest(after=version), RosterNotice)
            folder.take_roster(missed.roster, missed.authorities)
        statement = {
            "nonce": begun.nonce,
            "site": membership.site,
            "request": hashlib.sha256(request_pem.encode()).hexdigest(),
        }
        request = RecoverRequest(
            site=membership.site,
            nonce=begun.nonce,
            certificate_request=request_pem,
            roster_version=version,
            signature=sign(keys.signing, "recovery", statement),
        )
        folder.save_certificate(call(channel, ENROLMENT, "Recover", request, CertificateReply))


def leave(folder: SiteFolder) -> str:
    """Tell the coordinator that this site leaves, and delete its keys and certificate; models and the record stay.

    Returns:
        What the coordinator said where it takes no word of this site, because it shut it out or never let it in; empty
        where it was told.

    Raises:
        PeerRefused, Unreachable: As the coordinator or the network has it; nothing is deleted.
    """
    try:
        _say_goodbye(folder)
    except PeerRefused as error:
        if error.denial not in _NOT_HEARD:
            raise
        folder.forget()
        return error.message
    folder.forget()
    return ""


def _say_goodbye(folder: SiteFolder) -> None:
    membership = folder.membership()
    if time.time() >= folder.certificate_times()[1] or folder.issuer() is None:
        recover(folder)
    left_at = int(time.time())
    statement = {"site": membership.site, "left_at": left_at}
    request = LeaveRequest(
        site=membership.site, left_at=left_at, signature=sign(folder.keys().signing, "leave", statement)
    )
    call_federation(folder, "Leave", request, Empty)
