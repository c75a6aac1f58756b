"""Members: models that label the emotion of each utterance, one folder per kind.

`MEMBERS` names them without importing them. A team registers members of its own package through the
entry-point group `abhinaya.members`, with the same `module:object` notation.
"""

__all__ = ["MEMBERS"]

MEMBERS = {
    "wavlm": "members.wavlm.member:MEMBER",
    "whisper-encoder": "members.whisper_encoder.member:MEMBER",
}
