"""Training what routes: labels from questions with known answers, and the heads trained on them.

    questions -> look at a video's frames -> probe the answerer -------------------> qtr/ flr/      (label.py)
    qtr/ flr/ -> states of the answerer's first layers -> train one head per stage -> heads.json    (routers.py)
    qtr/ flr/, videos, heads -> train heads and language model together -----------> model/        (joint_stage.py)

Source: VideoRouter (arXiv 2605.05848), sections on data and training; its data sets and code are not public, so
columns and searches are this project's.
"""
