"""Members: models that label the emotion of each utterance, one folder per kind.

`MEMBERS` names them without importing them. A team registers members of its own package through the
entry-point group `abhinaya.members`, with the same `module:object` notation.
"""

__all__ = ["CONFIGS", "MEMBERS"]

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

CONFIGS = {
    "distilhubert": "members.distilhubert.config:DistilHubertConfig",
    "fusion": "members.fusion.config:FusionConfig",
    "gen-ser": "members.gen_ser.config:GenSerConfig",
    "llama-8b-lora": "members.llama_lora.config:LlamaLoraConfig",
    "llama-70b-zero-shot": "members.llama_zero_shot.config:LlamaZeroShotConfig",
    "onnx": "members.onnx.config:OnnxConfig",
    "salmonn-13b": "members.salmonn.config:SalmonnConfig",
    "salmonn-7b-speech-text": "members.salmonn.config:SalmonnConfig",
    "salmonn-zero-shot": "members.salmonn.zero_shot_config:SalmonnZeroShotConfig",
    "wavlm": "members.wavlm.config:WavLMConfig",
    "whisper-encoder": "members.whisper_encoder.config:WhisperEncoderConfig",
}
"""The `config_class` of each, so that a config is checked before the model's libraries load."""
