"""The questions of several windows, answered side by side in the memory there is.

A window's frames go through the vision tower once; questions with the same plan form a group that shares one prefilled
trunk (token_tree.py). `flag` and `choose` are answered in the pass that puts the question; `ask` goes on as free text,
which is decoded for all groups together. Whenever an answer ends, its memory lets the next group in (continuous
batching). What does not fit waits; what does not fit alone is refused.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from actors.device import halve_on_out_of_memory, is_out_of_memory
from actors.models import Answer, Ask, Cost, Request, WindowView
from actors.models.decoding import Heard, Said, Speech
from actors.models.groups import (
    Group,
    Place,
    Planned,
    Put,
    Shown,
    cut_at,
    cut_passes,
    rows_of,
    shown_rows,
    times_s,
    why_not,
)
from actors.models.prompting import labels, prior_key, write_prompt
from actors.models.token_tree import TokenTree
from pipeline.errors import AnswerError
from pipeline.spans import find_spans

if TYPE_CHECKING:
    from actors.models.video_llm import VideoLlm

FRAMES_PER_CALL = 16
"""Frames the vision tower sees at once, memory permitting."""


class Batch:
    """One call of the answerer: some windows and all that is asked about them."""

    def __init__(self, llm: "VideoLlm", requests: Sequence[Request]) -> None:
        self.llm = llm
        self.requests = requests
        self.waiting = deque(range(len(requests)))
        self.planned: deque[Planned] = deque()
        self.groups: deque[Group] = deque()
        stop, decode = llm.config.stop, llm.decode
        self.speech = Speech[Place](
            llm.language,
            llm.config.max_new_tokens,
            (lambda ids: len(cut_at(decode(ids), stop)) < len(decode(ids))) if stop else None,
        )
        self.answers: dict[Place, Answer] = {}
        self.costs: dict[Place, Cost] = {}
        self._halved = llm.language.out_of_memory.halved
        self.shown: dict[Place, Shown] = {}
        self.peak_bytes = 0
        """What weights, kept tensors and work were reckoned to take together at most, so far."""
        self.priors: dict[tuple[str, ...], int] = {}
        """Prompt tokens that priors took and nobody has paid for yet."""

    def run(self) -> list[list[Answer]]:
        """Return the answers of each request, in order."""
        self.priors = self.llm.learn_priors([ask.query for request in self.requests for ask in request.asks])
        while self.waiting or self.planned or self.groups or self.speech.keys:
            if self.groups and (puts := self._that_fit(self.groups[0])):
                self._reckon(self._need_bytes(self.groups[0], puts))
                self._open(self.groups.popleft(), puts)
            elif not self.groups and self.planned and self._has_room_to_assemble():
                self._reckon(self.llm.memory.reduce_bytes(len(self.planned[0].picked)))
                self._assemble(self.planned.popleft())
            elif not self.groups and self.waiting and (frames_per_call := self._frames_that_fit()):
                number = self.waiting.popleft()
                num_frames = len(rows_of(self.requests[number]))
                self._reckon(self.llm.memory.look_bytes(num_frames, frames_per_call))
                self._look(number, frames_per_call)
            elif self.speech.keys:
                self._go_on()
            elif self.groups:
                self._refuse_for_lack_of_memory(self.groups.popleft())
            else:
                self._refuse_frames(self.waiting.popleft())
        return [
            [self.answers[number, ask] for ask in range(len(request.asks))]
            for number, request in enumerate(self.requests)
        ]

    # --- memory ------------------------------------------------------------------------------------------

    def _room_bytes(self) -> int:
        """Return what is left for more work."""
        memory = self.llm.memory
        trees = {id(tree): tree.capacity for tree in self.speech.trees}
        windows = {id(planned.features): len(planned.features.values_NKD) for planned in self.planned}
        held = sum(group.head.num_bytes for group in self.groups)
        held += sum(trees.values()) * memory.row_bytes + sum(windows.values()) * memory.frame_bytes
        return memory.budget_bytes - memory.weights_bytes - held

    def _rows(self, group: Group, puts: Sequence[Put]) -> int:
        """Return the rows that a tree with these questions needs: labels' are used again, answers' are kept."""
        passes = [sum(put.question.num_tokens for put in part) for part in cut_passes(puts)]
        labelled = [
            size for part, size in zip(cut_passes(puts), passes, strict=True) if part[0].question.labels
        ]
        free = [put.question.num_tokens for put in puts if not put.question.labels]
        kept = sum(free) + len(free) * self.llm.config.max_new_tokens
        return group.num_tokens + max([kept, *labelled])

    def _that_fit(self, group: Group) -> Sequence[Put]:
        """Return the first questions of a group for which there is memory now, perhaps none."""
        puts, room = group.puts, self._room_bytes()
        while puts and self._need_bytes(group, puts) > room:
            puts = puts[: len(puts) // 2]
        return puts

    def _need_bytes(self, group: Group, puts: Sequence[Put]) -> int:
        """Return what questions of a group take at most: their tree, and the largest pass over it."""
        memory, rows = self.llm.memory, self._rows(group, puts)
        most = max(sum(put.question.num_tokens for put in part) for part in cut_passes(puts))
        work = max(memory.prefill_bytes(group.num_tokens), memory.pass_bytes(most, rows))
        return rows * memory.row_bytes + work

    def _reckon(self, work_bytes: int) -> None:
        """Note what is taken while some work is done beside all that is kept."""
        taken = self.llm.memory.budget_bytes - self._room_bytes() + work_bytes
        self.peak_bytes = max(self.peak_bytes, taken)

    def _frames_that_fit(self) -> int:
        """Return how many frames of the next window may go through the vision tower at once, perhaps none."""
        memory, room = self.llm.memory, self._room_bytes()
        num_frames = len(rows_of(self.requests[self.waiting[0]]))
        if not num_frames:
            return 1
        if self.speech.keys:  # goes on beside the features
            room -= memory.pass_bytes(len(self.speech.keys), 0)
        per_call = min(FRAMES_PER_CALL, num_frames)
        while per_call and memory.look_bytes(num_frames, per_call) > room:
            per_call -= 1
        return per_call

    def _has_room_to_assemble(self) -> bool:
        """Return whether the next plan can be compressed beside all that is kept; waiting helps only if it shrinks."""
        need = self.llm.memory.reduce_bytes(len(self.planned[0].picked))
        return need <= self._room_bytes() or not self.speech.keys

    # --- from a window to groups ---------------------------------------------------------------------------

    def _look(self, number: int, frames_per_call: int) -> None:
        """Encode the frames of a window that any question is shown, and put questions with the same plan together."""
        request, rows = self.requests[number], rows_of(self.requests[number])
        features = None
        if rows and request.window.evidence is not None:
            try:
                features = self.llm.encode(request.window.evidence.data_NHWC[rows], frames_per_call)
            except AnswerError as error:
                self._pay((number, 0))
                self._refuse([(number, ask) for ask in range(len(request.asks))], str(error))
                return
        plans: dict[tuple[tuple[int, int], ...], list[Place]] = {}
        seen: set[int] = set()
        for index, ask in enumerate(request.asks):
            shown = shown_rows(request.window, ask)
            if features is None or not shown:
                self._refuse([(number, index)], why_not(request.window, ask))
                continue
            prior_tokens = self.priors.pop(prior_key(ask.query), 0)
            self._pay((number, index), vision_frames=len(set(shown) - seen), prefill_tokens=prior_tokens)
            seen |= set(shown)
            plan = tuple((row, ask.plan.tokens_N[request.window.evidence_index[row]]) for row in shown)
            plans.setdefault(plan, []).append((number, index))
        for plan, places in plans.items():
            picked = [rows.index(row) for row, _ in plan]
            self.planned.append(Planned(features, picked, plan, places))  # pyright: ignore[reportArgumentType]

    def _assemble(self, planned: Planned) -> None:
        """Compress the frames of a plan, write the prompts, and make a group of those with the same visual half."""
        window = self.requests[planned.places[0][0]].window
        try:
            clip = self.llm.reduce(planned.features, planned.picked, planned.plan)
        except AnswerError as error:
            self._refuse(planned.places, str(error))
            return
        heads: dict[tuple[int, ...], list[Put]] = {}
        for place in planned.places:
            query = self._ask(place).query
            try:
                prompt = write_prompt(self.llm.parts, times_s(window, clip.rows), query)
                put = Put(place, self.llm.question(prompt, query))
            except AnswerError as error:
                self._refuse([place], str(error))
                continue
            self.shown[place] = Shown(clip.rows, clip.tokens_T)
            heads.setdefault(prompt.head, []).append(put)
        for ids, puts in heads.items():
            group = Group(self.llm.assemble(ids, clip), sorted(puts, key=lambda put: not put.question.labels))
            fitting: list[Put] = []
            for put in group.puts:
                if reason := self.llm.lacks_room(group.num_tokens, put.question):
                    self._refuse([put.place], reason)
                else:
                    fitting.append(put)
            if fitting:
                self.groups.append(replace(group, puts=fitting))

    # --- from groups to answers ----------------------------------------------------------------------------

    def _open(self, group: Group, puts: Sequence[Put]) -> None:
        """Prefill a group's trunk and put some of its questions to it; the others wait at the head of the queue."""
        if len(puts) < len(group.puts):
            self.groups.appendleft(replace(group, puts=group.puts[len(puts) :]))
        language, head = self.llm.language, group.head
        tree = language.tree(self._rows(group, puts))
        try:
            language.show(tree, head.embeds_LD, head.positions_PL, head.next_position, head.extra)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory on a prompt of {group.num_tokens} tokens; lower plan.budget_tokens"
            self._refuse([put.place for put in puts], reason)
            return
        self._pay(puts[0].place, prefills=1, prefill_tokens=group.num_tokens)
        for part in cut_passes(puts):
            self._put(tree, part)

    def _put(self, tree: TokenTree, puts: Sequence[Put]) -> None:
        """Put questions of one kind in one pass: answer them, or let their free text begin."""
        rows = tree.num_rows

        def put(part: Sequence[Put]) -> list[Heard]:
            return self.llm.language.put(tree, [put.question for put in part])

        try:
            heard = halve_on_out_of_memory(
                put, puts, f"{len(puts)} questions put at once", self.llm.language.out_of_memory
            )
        except AnswerError as error:
            self._pay(puts[0].place)
            self._refuse([put.place for put in puts], str(error))
            tree.cut(rows)
            return
        for one in puts:
            self._pay(one.place, prefill_tokens=one.question.num_tokens)
        if not puts[0].question.labels:
            self.speech.add([put.place for put in puts], tree, heard)
            self._collect()
            return
        tree.cut(rows)
        for one, what in zip(puts, heard, strict=True):
            self._choose(one.place, what)

    def _go_on(self) -> None:
        """Decode one token of every free-text answer."""
        first, passes, refused, reason = self.speech.keys[0], self.speech.num_passes, [], ""
        try:
            self.speech.step()
        except AnswerError as error:
            refused, reason = self.speech.drop(), str(error)
        self._pay(first, decode_passes=self.speech.num_passes - passes)
        self._refuse(refused, reason)
        self._collect()

    def _collect(self) -> None:
        """Finish the free-text answers that have come to their end."""
        for place, said in self.speech.finished():
            self._pay(place, decode_steps=said.num_steps)
            self._say(place, said)

    def _say(self, place: Place, said: Said) -> None:
        text = cut_at(self.llm.decode(said.ids), self.llm.config.stop).strip()
        if said.error:
            self._refuse([place], said.error)
        elif not text:
            self._refuse(
                [place],
                f"the model returned no text ({len(said.ids)} tokens before its end token); ask more specifically",
            )
        else:
            self._answer(place, text, said.confidence)

    def _choose(self, place: Place, heard: Heard) -> None:
        """Answer with the most likely label and its share of the likelihood of all labels."""
        query = self._ask(place).query
        if heard.error:
            self._refuse([place], heard.error)
            return
        try:
            share = self.llm.chances(query, heard.label_logs)
        except AnswerError as error:
            self._refuse([place], str(error))
            return
        best, words = int(share.argmax()), labels(query)
        text = words[best].lower() if query.kind == "flag" else words[best]
        self._answer(place, text, float(share[best]))

    # --- bookkeeping ---------------------------------------------------------------------------------------

    def _ask(self, place: Place) -> Ask:
        return self.requests[place[0]].asks[place[1]]

    def _pay(self, place: Place, **more: int) -> None:
        """Add to what was computed for an ask; batches that were halved since the last time are put on it too."""
        halved = self.llm.language.out_of_memory.halved
        more["oom_halvings"], self._halved = halved - self._halved, halved
        self.costs[place] = self.costs.get(place, Cost()) + Cost(**more)

    def _answer(self, place: Place, text: str, confidence: float) -> None:
        ask, window, shown = self._ask(place), self.requests[place[0]].window, self.shown[place]
        spans = []
        if ask.query.kind == "flag" and text == "yes":
            spans = find_spans(ask.relevance_N, window.pts_s_N, window.end_s, ask.threshold)
        frames = [window.evidence_index[row] for row in shown.rows]
        self.answers[place] = Answer(
            answer=text,
            confidence=confidence,
            spans=tuple((span.start_s, span.end_s, span.score) for span in spans),
            evidence=tuple(
                (float(window.pts_s_N[frame]), float(ask.relevance_N[frame]), tokens)
                for frame, tokens in zip(frames, shown.tokens_T, strict=True)
            ),
            tokens_dense=self._tokens_dense(window),
            tokens_used=sum(shown.tokens_T),
            cost=self.costs[place],
        )

    def _refuse(self, places: Iterable[Place], reason: str) -> None:
        for place in places:
            dense = self._tokens_dense(self.requests[place[0]].window)
            cost = self.costs.get(place, Cost())
            self.answers[place] = Answer("", 0.0, tokens_dense=dense, cost=cost, error=reason)

    def _refuse_for_lack_of_memory(self, group: Group) -> None:
        """Refuse the first question of a group that does not fit into empty memory; the others are tried alone."""
        first, rest = group.puts[:1], group.puts[1:]
        if rest:
            self.groups.appendleft(replace(group, puts=rest))
        memory = self.llm.memory
        rows = self._rows(group, first)
        need_gb = self._need_bytes(group, first) / 1e9
        reason = (
            f"a prompt of {rows} tokens needs {need_gb:.2f} GB beside the model's {memory.weights_bytes / 1e9:.2f} GB,"
            f" and {memory.budget_bytes / 1e9:.2f} GB are allowed; raise answer.memory_gb or lower plan.budget_tokens"
        )
        self._refuse([put.place for put in first], reason)

    def _refuse_frames(self, number: int) -> None:
        """Refuse all questions of a window of which not one frame fits into empty memory."""
        memory = self.llm.memory
        reason = (
            f"one frame in the vision tower needs {memory.frame_work_bytes / 1e9:.2f} GB beside the model's"
            f" {memory.weights_bytes / 1e9:.2f} GB, and {memory.budget_bytes / 1e9:.2f} GB are allowed; raise"
            " answer.memory_gb or lower answer.frame_px"
        )
        self._refuse([(number, ask) for ask in range(len(self.requests[number].asks))], reason)

    def _tokens_dense(self, window: WindowView) -> int:
        return len(window.pts_s_N) * self.llm.parts.tokens_per_frame
