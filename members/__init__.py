"""Members: models that label the emotion of each utterance, one folder per kind.

`MEMBERS` names them without importing them. A team registers members of its own package through the
entry-point group `abhinaya.members`, with the same `module:object` notation.
"""

__all__ = ["MEMBERS"]

MEMBERS = {
    "distilhubert": "members.distilhubert.member:MEMBER",
    "fusion": "members.fusion.member:MEMBER",
    "gen-ser": "members.gen_ser.member:MEMBER",
    "llama-8b-lora": "members.llama_lora.member:MEMBER",
    "llama-70b-zero-shot": "members.llama_zero_shot.member:ZERO_SHOT",
    "onnx": "members.onnx.member:MEMBER",
    "salmonn-13b": "members.salmonn.member:SPEECH",
    "salmonn-7b-speech-text": "members.salmonn.member:SPEECH_TEXT",
    "salmonn-zero-shot": "members.salmonn.zero_shot:ZERO_SHOT",
    "wavlm": "members.wavlm.member:MEMBER",
    "whisper-encoder": "members.whisper_encoder.member:MEMBER",
}
