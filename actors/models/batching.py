"""The questions of several windows, answered side by side in the memory there is.

A window's frames go through the vision tower once; questions with the same plan form a group that shares one prefilled
trunk (token_tree.py). `flag` and `choose` are answered in the pass that puts the question; `ask` goes on as free text,
which is decoded for all groups together. Whenever an answer ends, its memory lets the next group in (continuous
batching). What does not fit waits; what does not fit alone is refused.
"""

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from actors.device import empty_cache, halve_on_out_of_memory, is_out_of_memory
from actors.models import Answer, Ask, Cost, Request
from actors.models.answering import cut_at, free_text, given, likeliest, refined, refused, why_not
from actors.models.decoding import Heard, Said, Speech
from actors.models.groups import (
    Group,
    Place,
    Planned,
    Put,
    Shown,
    cut_passes,
    looked_rows,
    rows_of,
    shown_tokens,
    times_s,
)
from actors.models.prompting import prior_key, write_prompt
from actors.models.token_tree import TokenTree
from pipeline.errors import AnswerError

if TYPE_CHECKING:
    from actors.models.refine import Routing
    from actors.models.video_llm import FrameFeatures, Head, VideoLlm

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
        is_over = self._has_stopped if llm.config.stop else None
        self.speech = Speech[Place](llm.language, llm.config.max_new_tokens, is_over)
        self.answers: dict[Place, Answer] = {}
        self.costs: dict[Place, Cost] = {}
        self._halved = llm.language.out_of_memory.halved
        self.shown: dict[Place, Shown] = {}
        self.refined: dict[Place, Ask] = {}
        """Asks whose plan an image router has changed."""
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
            elif not self.groups and self.planned and self._reduce_bytes() <= self._room_bytes():
                self._reckon(self._reduce_bytes())
                self._assemble(self.planned.popleft())
            elif not (self.groups or self.planned) and self.waiting and (per_call := self._frames_that_fit()):
                number = self.waiting.popleft()
                self._reckon(self.llm.memory.look_bytes(len(rows_of(self.requests[number])), per_call))
                self._look(number, per_call)
            elif self.speech.keys:
                self._reckon(self._step_bytes())
                self._go_on()
            elif self.groups:
                self._refuse_for_lack_of_memory(self.groups.popleft())
            elif self.planned:
                planned = self.planned.popleft()
                self._refuse(planned.places, self._frames_need(len(planned.picked)))
            else:
                number = self.waiting.popleft()
                places = [(number, ask) for ask in range(len(self.requests[number].asks))]
                self._refuse(places, self._frames_need(len(rows_of(self.requests[number]))))
        return [
            [self._with_cost((number, ask)) for ask in range(len(request.asks))]
            for number, request in enumerate(self.requests)
        ]

    def _with_cost(self, place: Place) -> Answer:
        answer = replace(self.answers[place], cost=self.costs.get(place, Cost()))
        ask = self.refined.get(place)
        return answer if ask is None else refined(self.requests[place[0]].window, ask, answer)

    @contextmanager
    def _refusing(self, places: Sequence[Place], what: str) -> Generator[None]:
        """Refuse what is asked there when a step fails or does not fit; what is asked elsewhere goes on."""
        try:
            yield
            return
        except AnswerError as error:
            reason = str(error)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = f"out of memory on {what}; lower plan.budget_tokens"
        # out of the except block: its traceback would keep tensors alive
        empty_cache()
        self._refuse([place for place in places if place not in self.answers], reason)

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
        labelled = [
            sum(put.question.num_tokens for put in part)
            for part in cut_passes(puts)
            if part[0].question.labels
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
        free = sum(not put.question.labels for put in puts)
        work = max(
            memory.prefill_bytes(group.num_tokens),
            memory.pass_bytes(most, rows),
            self._step_bytes(free, rows),
        )
        return rows * memory.row_bytes + work

    def _step_bytes(self, more: int = 0, rows: int = 0) -> int:
        """Return what a step of decoding takes, with some more answers behind a tree of some rows."""
        rows = max([rows, *(tree.capacity for tree in self.speech.trees)])
        return self.llm.memory.pass_bytes(len(self.speech.keys) + more, rows)

    def _reduce_bytes(self) -> int:
        """Return what it takes to compress the frames of the next plan."""
        return self.llm.memory.reduce_bytes(len(self.planned[0].picked))

    def _reckon(self, work_bytes: int) -> None:
        """Note what is taken while some work is done beside all that is kept."""
        taken = self.llm.memory.budget_bytes - self._room_bytes() + work_bytes
        self.peak_bytes = max(self.peak_bytes, taken)

    def _frames_that_fit(self) -> int:
        """Return how many frames of the next window may go through the vision tower at once, perhaps none."""
        num_frames = len(rows_of(self.requests[self.waiting[0]]))
        if not num_frames:
            return 1
        room = self._room_bytes() - (self._step_bytes() if self.speech.keys else 0)
        per_call = min(FRAMES_PER_CALL, num_frames)
        while per_call and self._look_bytes(num_frames, per_call) > room:
            per_call -= 1
        return per_call

    def _look_bytes(self, num_frames: int, per_call: int) -> int:
        """Return what it takes to encode the frames of a window, and then to route and compress them all."""
        memory = self.llm.memory
        at_once = max(2, per_call) if self.llm.parts.family.nested else per_call  # see pad_lone_frame
        routed = self.llm.refiner.work_bytes if self.llm.refiner else 0
        behind = num_frames * memory.frame_bytes + max(memory.reduce_bytes(num_frames), routed)
        return max(memory.look_bytes(num_frames, at_once), behind)

    # --- from a window to groups ---------------------------------------------------------------------------

    def _look(self, number: int, frames_per_call: int) -> None:
        """Encode the frames of a window that any question is shown, and put questions with the same plan together."""
        request, rows = self.requests[number], rows_of(self.requests[number])
        features: list[FrameFeatures] = []
        places = [(number, ask) for ask in range(len(request.asks))]
        if rows and request.window.evidence is not None:
            with self._refusing(places, f"{len(rows)} frames in the vision tower"):
                features = [self.llm.encode(request.window.evidence.data_NHWC[rows], frames_per_call)]
            self._pay((number, 0))
            if not features:
                return
        plans: dict[tuple[tuple[int, int], ...], list[Place]] = {}
        seen: set[int] = set()
        routing = (
            self.llm.refiner.open(request.window, rows, features[0])
            if self.llm.refiner and features
            else None
        )
        for index, ask in enumerate(request.asks):
            looked, place = looked_rows(request.window, ask), (number, index)
            if not features or not looked:
                self._refuse([place], why_not(request.window, ask))
                continue
            prior_tokens = self.priors.pop(prior_key(ask.query), 0)
            self._pay(place, vision_frames=len(set(looked) - seen), prefill_tokens=prior_tokens)
            seen |= set(looked)
            if routing and ask.candidates:
                self._refine(place, routing)
            if place not in self.answers:
                plans.setdefault(shown_tokens(request.window, self._ask(place)), []).append(place)
        for plan, places in plans.items():
            picked = [rows.index(row) for row, _ in plan]
            self.planned.append(Planned(features[0], picked, plan, places))  # pyright: ignore[reportArgumentType]

    def _refine(self, place: Place, routing: "Routing") -> None:
        """Let the image router look at the candidates of an ask and plan again."""
        with self._refusing([place], f"{len(self._ask(place).candidates)} frames being routed"):
            self.refined[place] = routing.refine(self._ask(place))
        self._pay(place, router_tokens=routing.spent_tokens())

    def _assemble(self, planned: Planned) -> None:
        """Compress the frames of a plan, write the prompts, and make a group of those with the same visual half."""
        window = self.requests[planned.places[0][0]].window
        with self._refusing(planned.places, f"{len(planned.picked)} frames being compressed"):
            seen_s = times_s(window, [row for row, _ in planned.plan])
            clip = self.llm.reduce(planned.features, planned.picked, planned.plan, seen_s)
            heads: dict[tuple[int, ...], list[Put]] = {}
            for place in planned.places:
                query = self._ask(place).query
                with self._refusing([place], "writing the prompt"):
                    prompt = write_prompt(self.llm.parts, times_s(window, clip.rows), query)
                    put = Put(place, self.llm.question(prompt, query))
                    self.shown[place] = Shown(clip.rows, clip.tokens_T)
                    heads.setdefault(prompt.head, []).append(put)
            for ids, puts in heads.items():
                self._make_group(self.llm.assemble(ids, clip), puts)

    def _make_group(self, head: "Head", puts: Sequence[Put]) -> None:
        """Let the questions behind a visual half wait for memory; refuse those that the context has no room for."""
        fitting: list[Put] = []
        for put in sorted(puts, key=lambda put: not put.question.labels):
            if reason := self.llm.lacks_room(len(head.embeds_LD), put.question):
                self._refuse([put.place], reason)
            else:
                fitting.append(put)
        if fitting:
            self.groups.append(Group(head, fitting))

    # --- from groups to answers ----------------------------------------------------------------------------

    def _open(self, group: Group, puts: Sequence[Put]) -> None:
        """Prefill a group's trunk and put some of its questions to it; the others wait at the head of the queue."""
        if len(puts) < len(group.puts):
            self.groups.appendleft(replace(group, puts=group.puts[len(puts) :]))
        language, head = self.llm.language, group.head
        with self._refusing([put.place for put in puts], f"a prompt of {group.num_tokens} tokens"):
            tree = language.tree(self._rows(group, puts))
            language.show(tree, head.embeds_LD, head.positions_PL, head.next_position, head.extra)
            self._pay(puts[0].place, prefills=1, prefill_tokens=group.num_tokens)
            for part in cut_passes(puts):
                self._put(tree, part)

    def _put(self, tree: TokenTree, puts: Sequence[Put]) -> None:
        """Put questions of one kind in one pass: answer them, or let their free text begin."""
        rows, places = tree.num_rows, [put.place for put in puts]
        heard: list[Heard] = []

        def put(part: Sequence[Put]) -> list[Heard]:
            return self.llm.language.put(tree, [put.question for put in part])

        with self._refusing(places, "questions"):
            what = f"{len(puts)} questions put at once"
            heard = halve_on_out_of_memory(put, puts, what, self.llm.language.out_of_memory)
        self._pay(places[0])
        if not heard:
            tree.cut(rows)
            return
        for one in puts:
            self._pay(one.place, prefill_tokens=one.question.num_tokens)
        if not puts[0].question.labels:
            self.speech.add(places, tree, heard)
            self._collect()
            return
        tree.cut(rows)
        for one, what in zip(puts, heard, strict=True):
            with self._refusing([one.place], "labels"):
                self._choose(one.place, what)

    def _go_on(self) -> None:
        """Decode one token of every free-text answer; what does not fit gives up its largest tree."""
        first, passes = self.speech.keys[0], self.speech.num_passes
        largest = max(self.speech.trees, key=lambda tree: tree.capacity)
        places = self.speech.keys_of(largest)
        with self._refusing(places, "decoding"):
            self.speech.step()
        self._pay(first, decode_passes=self.speech.num_passes - passes)
        for place, num_steps in self.speech.drop([place for place in places if place in self.answers]):
            self._pay(place, decode_steps=num_steps)
        self._collect()

    def _collect(self) -> None:
        """Finish the free-text answers that have come to their end."""
        for place, said in self.speech.finished():
            self._pay(place, decode_steps=said.num_steps)
            self._say(place, said)

    def _has_stopped(self, ids: list[int]) -> bool:
        """Return whether a text has come to a stop string."""
        text = self.llm.decode(ids)
        return cut_at(text, self.llm.config.stop) != text

    def _say(self, place: Place, said: Said) -> None:
        with self._refusing([place], "a text"):
            if said.error:
                raise AnswerError(said.error)
            text = free_text(self.llm.decode(said.ids), self.llm.config.stop, len(said.ids))
            self._answer(place, text, said.confidence)

    def _choose(self, place: Place, heard: Heard) -> None:
        """Answer with the most likely label.

        Raises:
            AnswerError: the model computed something that is not a number.
        """
        query = self._ask(place).query
        if heard.error:
            raise AnswerError(heard.error)
        self._answer(place, *likeliest(query, self.llm.chances(query, heard.label_logs)))

    # --- bookkeeping ---------------------------------------------------------------------------------------

    def _ask(self, place: Place) -> Ask:
        return self.refined.get(place) or self.requests[place[0]].asks[place[1]]

    def _pay(self, place: Place, **more: int) -> None:
        """Add to what was computed for an ask; batches that were halved since the last time are put on it too."""
        halved = self.llm.language.out_of_memory.halved
        more["oom_halvings"], self._halved = halved - self._halved, halved
        self.costs[place] = self.costs.get(place, Cost()) + Cost(**more)

    def _answer(self, place: Place, text: str, confidence: float) -> None:
        window, shown = self.requests[place[0]].window, self.shown[place]
        frames = list(zip(shown.rows, shown.tokens_T, strict=True))
        per_frame = self.llm.parts.tokens_per_frame
        self.answers[place] = given(window, self._ask(place), (text, confidence), frames, per_frame)

    def _refuse(self, places: Iterable[Place], reason: str) -> None:
        for place in places:
            window = self.requests[place[0]].window
            self.answers[place] = refused(window, reason, self.llm.parts.tokens_per_frame)

    def _refuse_for_lack_of_memory(self, group: Group) -> None:
        """Refuse the first question of a group that does not fit into empty memory; the others are tried alone."""
        first, rest = group.puts[:1], group.puts[1:]
        if rest:
            self.groups.appendleft(replace(group, puts=rest))
        rows, need_bytes = self._rows(group, first), self._need_bytes(group, first)
        reason = f"a prompt of {rows} tokens needs {self.llm.memory.say(need_bytes)}; raise answer.memory_gb or lower"
        self._refuse([put.place for put in first], f"{reason} plan.budget_tokens")

    def _frames_need(self, num_frames: int) -> str:
        """Return why frames that do not fit into empty memory are not shown."""
        need = self.llm.memory.say(self._look_bytes(num_frames, 1))
        return (
            f"{num_frames} frames, one at a time in the vision tower, need {need}; raise answer.memory_gb, lower"
            " answer.frame_px or plan.budget_tokens, or make windows shorter"
        )
