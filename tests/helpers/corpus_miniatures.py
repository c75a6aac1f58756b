"""Each corpus of the field in miniature: files in the published naming scheme, and their rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Row = tuple[str, str | None, str | None, str]
"""Label, speaker, gender, language."""


@dataclass(frozen=True)
class Miniature:
    """Sounds below a folder and what they are; texts by path; a sound that does not fit."""

    rows: dict[str, Row]
    texts: dict[str, str] = field(default_factory=dict)
    odd: str = "odd/extra.wav"
    transcripts: dict[str, str] = field(default_factory=dict)
    films: tuple[str, ...] = ()
    further: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Utterance -> further cells."""


_EVALUATION = """\
% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]

[6.2901 - 8.2357]\tSes01F_impro01_F000\tneu\t[2.5000, 3.5000, 4.5000]
C-E2:\tNeutral;\t()
C-E3:\tNeutral;\t()

[10.0100 - 11.3925]\tSes01F_impro01_M000\texc\t[4.0000, 3.0000, 2.0000]
C-E2:\tExcited;\t()

[14.8872 - 18.0175]\tSes01F_impro01_M001\txxx\t[2.5000, 2.5000, 2.5000]
"""
_SENTENCES = """\
- prompt: a0001
  text: Guten Tag.
  style: angry
  start: 0.0
  end: 0.2
  segments:
  - {lab: G, dur: 0.1}
    - {lab: u, dur: 0.1}
- prompt: a0002
  text: "Gute Nacht."
  style: angry
  start: 0.2
  end: 0.3
"""

MINIATURES = {
    "ravdess": Miniature(
        {
            "Actor_12/03-01-06-01-02-01-12.wav": ("fearful", "ravdess-12", "female", "en"),
            "Actor_01/03-01-01-01-01-02-01.wav": ("neutral", "ravdess-01", "male", "en"),
        },
        odd="Actor_01/03-02-01-01-01-02-01.wav",  # a song
        transcripts={"03-01-06-01-02-01-12.wav": "Dogs are sitting by the door."},
        films=("Actor_01/01-01-01-01-01-02-01.mp4",),
    ),
    "crema-d": Miniature(
        {
            "AudioWAV/1001_DFA_ANG_XX.wav": ("anger", "crema-d-1001", "male", "en"),
            "AudioWAV/1002_IEO_SAD_HI.wav": ("sad", "crema-d-1002", "female", "en"),
            "AudioWAV/1040_ITH_SAD_X.wav": ("sad", "crema-d-1040", None, "en"),
        },
        texts={
            "VideoDemographics.csv": "ActorID,Age,Sex,Race,Ethnicity\n"
            "1001,51,Male,Caucasian,Not Hispanic\n1002,21,Female,Caucasian,Not Hispanic\n"
        },
        transcripts={"1002_IEO_SAD_HI.wav": "It's eleven o'clock."},
        further={"1002_IEO_SAD_HI.wav": {"intensity": "high", "age": "21"}},
    ),
    "esd": Miniature(
        {
            "0001/Angry/0001_000351.wav": ("angry", "esd-0001", None, "zh"),
            "0011/Surprise/train/0011_001421.wav": ("surprise", "esd-0011", None, "en"),
        },
        texts={"0011/0011.txt": "0011_001421\tThe nine the eggs, I keep.\tSurprise\n"},
        transcripts={"0011_001421.wav": "The nine the eggs, I keep."},
    ),
    "subesco": Miniature(
        {
            "F_02_MONIKA_S_1_NEUTRAL_5.wav": ("neutral", "subesco-F02", "female", "bn"),
            "M_02_SHAWON_S_10_ANGRY_1.wav": ("angry", "subesco-M02", "male", "bn"),
        }
    ),
    "tess": Miniature(
        {
            "OAF_Fear/OAF_back_fear.wav": ("fear", "tess-OAF", "female", "en"),
            "YAF_pleasant_surprised/YAF_back_ps.wav": (
                "pleasant surprise",
                "tess-YAF",
                "female",
                "en",
            ),
            "OAF_neutral/OA_bite_neutral.wav": ("neutral", "tess-OAF", "female", "en"),
        },
        transcripts={"OAF_back_fear.wav": "Say the word back."},
    ),
    "savee": Miniature(
        {
            # One name in two folders: both keep them.
            "AudioData/DC/sa01.wav": ("sadness", "savee-DC", "male", "en"),
            "AudioData/JE/sa01.wav": ("sadness", "savee-JE", "male", "en"),
            "KL_su15.wav": ("surprise", "savee-KL", "male", "en"),
        }
    ),
    "iemocap": Miniature(
        {
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav": (
                "neutral",
                "iemocap-1F",
                "female",
                "en",
            ),
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M000.wav": (
                "excited",
                "iemocap-1M",
                "male",
                "en",
            ),
            "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_M001.wav": (
                "no agreement",
                "iemocap-1M",
                "male",
                "en",
            ),
        },
        texts={
            "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt": _EVALUATION,
            "Session1/dialog/transcriptions/Ses01F_impro01.txt": (
                "Ses01F_impro01_F000 [006.2901-008.2357]: Excuse  me.\n"
                "Ses01F_impro01_M000 [010.0100-011.3925]: Do you have your forms?\n"
            ),
        },
        transcripts={"Ses01F_impro01_F000.wav": "Excuse me."},
        further={
            "Ses01F_impro01_F000.wav": {
                "valence": 2.5,
                "arousal": 3.5,
                "dominance": 4.5,
                "recording": "Ses01F_impro01",
                "turn": 0,
                "session": "Session1",
            }
        },
    ),
    "nemo": Miniature(
        {
            "samples/SB0_anger_12.wav": ("anger", "nemo-SB0", "female", "pl"),
            "samples/EB0_surprised_1.wav": ("surprise", "nemo-EB0", None, "pl"),
        },
        texts={
            "data.tsv": "file_id\temotion\traw_text\tnormalized_text\tspeaker_id\tgender\tage\n"
            "SB0_anger_12.wav\tanger\tWcale nie.\twcale nie\tSB0\tfemale\t21\n"
        },
        transcripts={"SB0_anger_12.wav": "Wcale nie."},
    ),
    "thai-ser": Miniature(
        {
            "studio1-10/studio001/con/s001_con_actor001_impro1_1.flac": (
                "angry",
                "thai-ser-001",
                "female",
                "th",
            ),
            "zoom1-10/zoom001/mic/z001_mic_actor102_script2_3.flac": (
                "neutral",
                "thai-ser-102",
                None,
                "th",
            ),
        },
        texts={
            "emotion_label.json": json.dumps(
                {
                    "s001_con_actor001_impro1_1.flac": [
                        {
                            "assigned_emo": "Frustrated",
                            "majority_emo": "Angry",
                            "agreement": 0.75,
                            "annotated": [["Angry"], ["Angry", "Sad"]],
                        }
                    ],
                    "z001_mic_actor102_script2_3.wav": [
                        {"assigned_emo": "Neutral", "majority_emo": "Neutral", "agreement": 1}
                    ],
                }
            ),
            "actor_demography.json": json.dumps(
                {"data": [{"Actor's ID": "001", "Age": 21, "Sex": "Female"}]}
            ),
        },
        odd="studio1-10/studio001/clip/s001_clip_actor001_impro1_1.flac",
        further={"s001_con_actor001_impro1_1.flac": {"assigned": "frustrated", "agreement": 0.75}},
    ),
    "cafe": Miniature(
        {
            "Peur/Fort/08-P-2-1.wav": ("fear", "cafe-08", "female", "fr"),
            "Neutre/01-N-1-6.wav": ("neutral", "cafe-01", "male", "fr"),
        },
        transcripts={"01-N-1-6.wav": "Six ours aimants domestiqués"},
        further={"08-P-2-1.wav": {"intensity": "strong"}, "01-N-1-6.wav": {"intensity": None}},
    ),
    "emns": Miniature(
        {
            "cleaned_wav/1.wav": ("surprise", "emns-3", "female", "en"),
            "cleaned_wav/2.wav": ("sarcastic", "emns-3", "female", "en"),
        },
        texts={
            "metadata.csv": "id|utterance|emotion|date_created|status|gender|age|level"
            "|audio_recording|description|user_id\n"
            "1|Oh, really.|Surprised|2021|Complete|Female|20s|7|wavs/1.webm|wide awake|3\n"
            "2|Of course.|Sarcastic|2021|Complete|Female|20s|5|wavs/2.webm|dry|3\n"
        },
        transcripts={"1.wav": "Oh, really."},
        films=("cleaned_webm/1.webm",),
    ),
    "emozionalmente": Miniature(
        {
            "audio/1.wav": ("joy", "emozionalmente-anna", "female", "it"),
            "audio/2.wav": ("neutrality", "emozionalmente-bruno", None, "it"),
        },
        texts={
            "metadata/samples.csv": "timestamp,file_name,actor,language,sentence,"
            "emotion_expressed\n1,1.wav,anna,it,Ciao.,joy\n2,2.wav,bruno,it,Ciao.,neutrality\n",
            "metadata/users.csv": "username,age,gender\nanna,30,female\n",
        },
        transcripts={"1.wav": "Ciao."},
    ),
    "enterface": Miniature(
        {
            "subject 1/anger/sentence 1/s1_an_1.wav": ("anger", "enterface-1", None, "en"),
            "subject 3/surprise/sentence 2/s_3_su_2.wav": ("surprise", "enterface-3", None, "en"),
        },
        films=("subject 2/fear/sentence 1/s2_fe_1.avi",),
    ),
    "jl-corpus": Miniature(
        {
            "JL(wav+txt)/female1_angry_10a_1.wav": ("angry", "jl-corpus-female1", "female", "en"),
            "JL(wav+txt)/male2_concerned_2b_2.wav": ("concerned", "jl-corpus-male2", "male", "en"),
        }
    ),
    "mesd": Miniature(
        {
            "Anger_F_A_abajo.wav": ("anger", None, "female", "es"),
            "Fear_C_B_basta_ya.wav": ("fear", None, None, "es"),
        },
        transcripts={"Fear_C_B_basta_ya.wav": "basta ya"},
        further={"Fear_C_B_basta_ya.wav": {"voice": "child"}},
    ),
    "oreau": Miniature(
        {
            "01a01C.wav": ("anger", "oreau-01", None, "fr"),
            "32b02N.wav": ("neutral", "oreau-32", None, "fr"),
        }
    ),
    "pavoque": Miniature(
        {
            "pavoque-a0001-angry.flac": ("angry", "pavoque-stefan-roettig", "male", "de"),
            "pavoque-a0002-angry.flac": ("angry", "pavoque-stefan-roettig", "male", "de"),
        },
        texts={"pavoque-angry.yaml": _SENTENCES},
        odd="",
        transcripts={"pavoque-a0002-angry.flac": "Gute Nacht."},
        further={
            "pavoque-a0001-angry.flac": {"duration_s": 0.2},
            "pavoque-a0002-angry.flac": {"duration_s": 0.1},
        },
    ),
    "resd": Miniature(
        {
            "train/a.wav": ("enthusiasm", None, None, "ru"),
            "test/b.wav": ("fear", None, None, "ru"),
        },
        texts={
            "train.csv": "name,path,emotion\na,a.wav,enthusiasm\n",
            "test.csv": "name,path,emotion\nb,b.wav,fear\n",
        },
        further={"a.wav": {"split": "train"}, "b.wav": {"split": "test"}},
    ),
    "urdu": Miniature(
        {
            "Angry/SM1_F1_A1.wav": ("angry", "urdu-SM1", "male", "ur"),
            "Sad/SF2_F10_S10.wav": ("sad", "urdu-SF2", "female", "ur"),
        }
    ),
}
"""Corpus -> its miniature."""
