"""CLINC150: utterances with 150 intents of 10 domains, and utterances that are out of scope."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np

from metajax._checked import checked
from metajax.data.datasets import Dataset, dataset
from metajax.data.prepare.clinc150 import CLINC150
from metajax.data.read.data_files import data_file_path
from metajax.data.texts import tokenize, train_tokenizer

_DOMAINS = {
    "banking": """
        account_blocked balance bill_balance bill_due freeze_account interest_rate
        min_payment order_checks pay_bill pin_change report_fraud routing spending_history
        transactions transfer
    """,
    "credit_cards": """
        application_status apr card_declined credit_limit credit_limit_change credit_score
        damaged_card expiration_date improve_credit_score international_fees new_card
        redeem_rewards replacement_card_duration report_lost_card rewards_balance
    """,
    "kitchen_and_dining": """
        accept_reservations calories cancel_reservation confirm_reservation cook_time
        food_last how_busy ingredient_substitution ingredients_list meal_suggestion
        nutrition_info recipe restaurant_reservation restaurant_reviews
        restaurant_suggestion
    """,
    "home": """
        calendar calendar_update next_song order order_status play_music reminder
        reminder_update shopping_list shopping_list_update smart_home todo_list
        todo_list_update update_playlist what_song
    """,
    "auto_and_commute": """
        current_location directions distance gas gas_type jump_start last_maintenance mpg
        oil_change_how oil_change_when schedule_maintenance tire_change tire_pressure
        traffic uber
    """,
    "travel": """
        book_flight book_hotel car_rental carry_on exchange_rate flight_status
        international_visa lost_luggage plug_type timezone translate travel_alert
        travel_notification travel_suggestion vaccines
    """,
    "utility": """
        alarm calculator date definition find_phone flip_coin make_call
        measurement_conversion roll_dice share_location spelling text time timer weather
    """,
    "work": """
        direct_deposit income insurance insurance_change meeting_schedule next_holiday
        payday pto_balance pto_request pto_request_status pto_used rollover_401k
        schedule_meeting taxes w2
    """,
    "small_talk": """
        are_you_a_bot do_you_have_pets fun_fact goodbye greeting how_old_are_you
        meaning_of_life tell_joke thank_you what_are_your_hobbies what_can_i_ask_you
        what_is_your_name where_are_you_from who_do_you_work_for who_made_you
    """,
    "meta": """
        cancel change_accent change_ai_name change_language change_speed change_user_name
        change_volume maybe no repeat reset_settings sync_device user_name whisper_mode yes
    """,
}
INTENT_NAMES = {
    intent: f"{domain}/{intent}"
    for domain, intents in _DOMAINS.items()
    for intent in intents.split()
}
"""{intent: name of its class, "domain/intent"}."""

_IN_SCOPE = ("train", "val", "test")
_SPLITS = (*_IN_SCOPE, "oos_train", "oos_val", "oos_test")


@checked
def clinc150(split: str, *, tokenizer: Any = None, length: int = 40) -> Dataset:
    """Utterances as token ids int32[length], of 150 intents: 100, 20 or 30 of each.

    A class has a name such as "banking/transfer", where banking is its domain as the origin's
    domains.json has it. To hold domains out, draw a split of the names by `draw_split(...,
    group=group_of)`.

    Reads `clinc150.json.gz`, which is found or downloaded as `omniglot` says. Licence: CC BY 3.0.

    Args:
        split: "train", "val" or "test".
        tokenizer: one for all splits. By default 2 000 pieces learned from all training utterances.
            To keep the words of held-out domains from it, learn your own from the other texts of
            `clinc150_texts("train")`.
        length: in tokens; the default tokenizer needs 39.

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: an unknown split, a damaged file, or an utterance longer than `length`.
        ImportError: tokenizers is missing.

    Source: Larson et al. 2019, aclanthology.org/D19-1131.
    """
    if split not in _IN_SCOPE:
        raise ValueError(
            f"{split=} must be one of {_IN_SCOPE}; for texts out of scope see `clinc150_texts`."
        )
    if tokenizer is None:
        tokenizer = train_tokenizer(clinc150_texts("train")[0], size=2000)
    texts, of_text = clinc150_texts(split)
    names = list(INTENT_NAMES.values())
    labels = np.array([names.index(name) for name in of_text])
    tokens = tokenize(tokenizer, texts, length=length)
    return dataset(tokens, labels, names=names, credit=CLINC150.credit)


@checked
def clinc150_texts(split: str) -> tuple[list[str], list[str]]:
    """The utterances of a split and their intents, "domain/intent".

    The intent is "oos" in the splits of utterances that are out of scope.

    Reads `clinc150.json.gz`: {split: [[text, intent], ...]}.

    Args:
        split: "train", "val", "test", "oos_train", "oos_val" or "oos_test".

    Raises:
        FileNotFoundError: METAJAX_DATA names no folder.
        ConnectionError: the file is not at hand, and its origin cannot be reached.
        ValueError: an unknown split or a damaged file.
    """
    if split not in _SPLITS:
        raise ValueError(f"{split=} must be one of {_SPLITS}.")
    path = data_file_path(CLINC150)
    names = INTENT_NAMES if split in _IN_SCOPE else {"oos": "oos"}
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = json.load(file)[split]
        return [text for text, _ in rows], [names[intent] for _, intent in rows]
    except Exception as error:  # gzip, zlib, json or the unpacking may be the first to fail
        raise ValueError(
            f"{path} is damaged ({error!r}); it must have [text, intent] lists for {_SPLITS}."
        ) from error
