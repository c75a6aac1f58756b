"""Engine `transformers`: scores how likely each class word is as the whole answer, or generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from abhinaya.errors import CheckpointError
from abhinaya.inference.loaded import load_once
from abhinaya.processes import join_launch
from abhinaya.prompting.special_tokens import defuse
from members.llama_zero_shot.config import Decoding, TransformersConfig
from members.llama_zero_shot.engine import Answer, Keep, Question, seed_of
from members.llama_zero_shot.local_model import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """Answers with a model of transformers, loaded with the first question.

    With `decoding.constrained` the log-likelihood of a class is that of its word and of the end of
    the turn behind it, given the chat: log p(w_1 | chat) + log p(w_2 | chat, w_1) + ... + log p(end
    | chat, w). The softmax over classes gives their probabilities, and nothing is generated.
    Without, answers are generated: greedy ones in batches, drawn ones one by one, each with its own
    seed.

    Args:
        base: folder or hub id of a chat model.
        words: one word per class, in class order.
        decoding: how answers come about.
        settings: number type, batch size.
        seed: of drawn answers.
    """

    def __init__(
        self,
        base: str,
        words: Sequence[str],
        decoding: Decoding,
        settings: TransformersConfig,
        *,
        seed: int = 0,
    ) -> None:
        self._base = base
        self._words = tuple(words)
        self._decoding = decoding
        self._settings = settings
        self._seed = seed
        self._model: Any = None
        self._tokenizer: Any = None

    @property
    def identity(self) -> str:
        """Model and number type."""
        return f"transformers:{self._base}:{self._settings.weights}{fingerprint(self._base)}"

    def ask(self, questions: Sequence[Question], keep: Keep) -> None:
        """Answer all questions; see `Engine.ask`.

        Raises:
            MissingFileError: if there is no such model.
            CheckpointError: if it cannot be used, or is no chat model.
            MissingPackageError: if `int8` or `nf4` lacks bitsandbytes.
        """
        import torch

        if not questions:
            return
        if self._model is None:
            self._model, self._tokenizer = load_once(self.identity, self._load)
        for start in range(0, len(questions), self.batch_size):
            batch: list[tuple[int, list[int]]] = []
            for idx in range(start, min(start + self.batch_size, len(questions))):
                ids = self.encode(questions[idx])
                if len(ids) + self._decoding.max_tokens > self._n_positions:
                    reason = (
                        f"the prompt has {len(ids)} tokens, but the model reads {self._n_positions}"
                        f" with an answer of up to {self._decoding.max_tokens}"
                    )
                    keep(idx, Answer("", failure=reason))
                else:
                    batch.append((idx, ids))
            if not batch:
                continue
            prompts = [ids for _, ids in batch]
            with torch.inference_mode():
                if self._decoding.constrained:
                    answers = self._score(prompts, is_begun=questions[batch[0][0]].is_begun)
                else:
                    answers = self._generate(prompts, questions[batch[0][0]].sample)
            for (idx, _), answer in zip(batch, answers, strict=True):
                keep(idx, answer)

    @property
    def batch_size(self) -> int:
        """Questions that go through the model together, in the order in which they are asked."""
        # int8 looks for large features in the whole batch; draws share a generator.
        if self._settings.weights == "int8" or self._decoding.temperature > 0:
            return 1
        return self._settings.batch_size

    @property
    def _n_positions(self) -> int:
        return int(self._model.config.get_text_config().max_position_embeddings)

    def _load(self) -> tuple[Any, Any]:

        from abhinaya.nn.language_model import load_language_model, load_tokenizer

        tokenizer = load_tokenizer(self._base)
        if not tokenizer.chat_template:
            raise CheckpointError(
                f"The tokenizer of {self._base!r} has no chat template, so it is no chat model. "
                "Set base to an instruct model."
            )
        device = join_launch().device
        weights = self._settings.weights
        is_plain_on_cpu = device.type == "cpu" and weights not in ("int8", "nf4")
        model = load_language_model(
            self._base, weights=weights, head=True, device=None if is_plain_on_cpu else device
        )
        return model, tokenizer

    def encode(self, question: Question) -> list[int]:
        """Return token ids of the chat, up to where the answer begins; after the first `ask`."""
        added = self._tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special]
        turns = [
            {"role": turn.role, "content": defuse(turn.text, special)} for turn in question.turns
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                tokenize=False,
                add_generation_prompt=not question.is_begun,
                continue_final_message=question.is_begun,
            )
        except Exception as err:  # a template is a program of somebody else's
            reason = " ".join(str(err).split()) or type(err).__name__
            raise CheckpointError(
                f"The chat template of {self._base!r} does not take the turns "
                f"{', '.join(turn.role for turn in question.turns)}: {reason}. Use a prompt with "
                "other turns, or take the tokenizer from its publisher again."
            ) from err
        # The template has written the special tokens of the beginning already.
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _score(self, prompts: Sequence[Sequence[int]], *, is_begun: bool) -> list[Answer]:
        import torch

        n_classes = len(self._words)
        words = [self._encode_word(f" {word}" if is_begun else word) for word in self._words]
        tokens, is_token = _pad(words, left=False)  # (K, T)
        tokens, is_token = tokens.to(self._model.device), is_token.to(self._model.device)
        ids, mask = self._to_device(prompts)  # (B, L)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        output = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
        )
        first = output.logits[:, -1].float().log_softmax(-1)  # (B, V)
        scores = first[:, tokens[:, 0]]  # (B, K)
        if tokens.shape[1] > 1:
            # Every prompt goes on with every word: rows are (prompt, class), (B K).
            cache = output.past_key_values
            cache.batch_repeat_interleave(n_classes)
            begun = tokens[:, :-1].repeat(len(prompts), 1)  # (B K, T-1)
            begun_mask = is_token[:, :-1].repeat(len(prompts), 1)
            steps = torch.arange(1, tokens.shape[1], device=ids.device)
            logits = self._model(
                input_ids=begun,
                attention_mask=torch.cat([mask.repeat_interleave(n_classes, 0), begun_mask], 1),
                position_ids=positions[:, -1:].repeat_interleave(n_classes, 0) + steps,
                past_key_values=cache,
                use_cache=True,
            ).logits
            further = logits.float().log_softmax(-1)  # (B K, T-1, V)
            told = tokens[:, 1:].repeat(len(prompts), 1)
            gained = further.gather(2, told[..., None])[..., 0]  # (B K, T-1)
            gained = gained * is_token[:, 1:].repeat(len(prompts), 1)
            scores = scores + gained.sum(1).view(len(prompts), n_classes)
        probs = scores.double().softmax(1).cpu()
        answers = []
        for prompt, row in zip(prompts, probs, strict=True):
            best = int(row.argmax())
            found = tuple(row.tolist()) if self._decoding.wants_logprobs else None
            answers.append(Answer(self._words[best], found, len(prompt), len(words[best])))
        return answers

    def _encode_word(self, word: str) -> list[int]:
        """Return token ids of a class word as the whole answer."""
        ids = list(self._tokenizer(word, add_special_tokens=False)["input_ids"])
        end = self._tokenizer.eos_token_id
        return ids if end is None else [*ids, int(end)]

    def _generate(self, prompts: Sequence[Sequence[int]], sample: int) -> list[Answer]:
        import torch

        decoding = self._decoding
        drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None}
        drawn["top_k"] = None
        if decoding.temperature > 0:
            drawn = {"do_sample": True, "temperature": decoding.temperature}
            drawn |= {"top_p": decoding.top_p, "top_k": decoding.top_k or 0}
        ids, mask = self._to_device(prompts)
        end = self._model.generation_config.eos_token_id
        ends = set(end if isinstance(end, list) else [] if end is None else [end])
        devices = [ids.device] if ids.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_of(self._seed, sample))
            output = self._model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=decoding.max_tokens,
                pad_token_id=min(ends, default=0),
                **drawn,
            )
        answers = []
        for prompt, row in zip(prompts, output[:, ids.shape[1] :].tolist(), strict=True):
            n_tokens = next((n for n, token in enumerate(row, start=1) if token in ends), len(row))
            text = self._tokenizer.decode(row[:n_tokens], skip_special_tokens=True)
            answers.append(Answer(text.strip(), None, len(prompt), n_tokens))
        return answers

    def _to_device(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        ids, mask = _pad(prompts, left=True)
        return ids.to(self._model.device), mask.to(self._model.device)


def _pad(rows: Sequence[Sequence[int]], *, left: bool) -> tuple[Tensor, Tensor]:
    """Return rows of token ids as one array (B, L) filled with 0, and 1 where there is a token."""
    import torch

    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for idx, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[idx, place] = torch.tensor(list(row))
        mask[idx, place] = 1
    return ids, mask
