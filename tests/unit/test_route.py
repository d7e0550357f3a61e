"""The rules that tell whole-video questions from questions about moments."""

import pytest

from pipeline.budget import MIN_ROUTE_CONFIDENCE
from pipeline.route import Route
from pipeline.route import route_by_rules as rules

GLOBAL = [
    "Summarise the video.",
    "Please summarize what the man does",
    "Give me a short overview",
    "What is a good synopsis of this clip?",
    "Describe the video in detail.",
    "What is this video about?",
    "What was the film mainly about?",
    "What happens in the clip?",
    "What is the main topic of the lecture?",
    "Who is the main character?",
    "What is the purpose of this clip?",
    "What does the video mainly show?",
    "Tell me the story",
    "How many people are in the video?",
    "What genre does it belong to?",
    "Which mood does the music set?",
    "What is the correct order of events?",
    "In which order do the cars arrive?",
    "Arrange the following steps",
    "Which animal appears first?",
    "How many times does the dog bark?",
    "How often does she fall?",
    "How many goals are scored in total?",
    "What is the total number of red cars?",
    "Count the people who enter.",
    "How does the weather change?",
    "Is the man wearing a hat throughout?",
    "Which colours appear across the entire video?",
    "TL;DR",
    "Walk me through the video.",
    "Tell me about this film",
    "Give a brief description of the recording",
    "Describe everything you see",
    "Which statement best describes the video?",
    "Which title fits the video best?",
    "Write a caption for this clip",
    "What kind of video is this?",
    "What can be concluded from the video?",
    "What are the key takeaways?",
    "Explain the plot.",
    "List the main events",
    "Put the scenes in order.",
    "Are the steps shown in the right order?",
    "What are the steps of the recipe?",
    "How many cars pass the gate over the whole day?",
    "What differs between the beginning and the end?",
    "What is going on?",
    "What's happening here?",
    "Where was this?",
    "why?",
    "",
]
FRAGMENT = [
    "What colour is the car at the gate?",
    "Who opens the door?",
    "What does the sign say?",
    "How many people sit at the table?",
    "Where does the woman put her bag?",
    "What is written on the shirt of the man in overalls?",
    "Is it a theme park?",
    "Which country is shown?",
    "Is the countdown visible?",
    "What is the title on the book?",
    "What does the caption on the wall say?",
    "List the things on the table",
    "Which step does she trip on?",
    "Does he sit down in order to eat?",
    "What order does the customer place?",
    "What kind of dog is on the sofa?",
    "What type of hat does he wear?",
    "What happens right after the man opens the door?",
    "When does the red car appear?",
    "Who waits at the end of the corridor?",
    "Explain the sign on the door",
]


@pytest.mark.parametrize("text", GLOBAL)
def test_whole_video_questions(text):
    found = rules(text, "ask")
    assert found.route == "global", found
    assert found.confidence >= MIN_ROUTE_CONFIDENCE


@pytest.mark.parametrize("text", FRAGMENT)
def test_questions_about_moments(text):
    found = rules(text, "ask")
    assert found.route == "fragment", found
    assert found.confidence >= MIN_ROUTE_CONFIDENCE


@pytest.mark.parametrize("kind", ["find", "flag"])
def test_find_and_flag_look_for_moments(kind):
    assert rules("a person leaves a bag", kind) == Route("fragment", 0.9, f"rules: {kind} looks for moments")
    assert rules("something happens", kind).route == "fragment"
    assert rules("violence throughout the video", kind).route == "global"


def test_text_the_rules_cannot_read_is_left_to_the_fallback():
    found = rules("视频里的车是什么颜色?", "ask")
    assert found.confidence < MIN_ROUTE_CONFIDENCE
    assert rules("视频里的车", "find").confidence >= MIN_ROUTE_CONFIDENCE
    assert rules("Où est le café à côté ?", "ask").confidence >= MIN_ROUTE_CONFIDENCE


def test_reason_names_the_rule():
    assert rules("SUMMARIZE this", "choose").reason == "rules: asks for a summary"
    assert rules("What is happening?", "ask").reason == "rules: names nothing to look for"
