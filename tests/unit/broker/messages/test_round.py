"""Tokens and seeds of a round's tasks."""

from broker.messages import round as rounds


def test_a_token_depends_on_the_round_s_nonce_and_on_the_client() -> None:
    tokens = {rounds.token(nonce, client) for nonce in ("n-1", "n-2") for client in ("c-1", "c-2")}
    assert len(tokens) == 4
    assert all(len(token) == 64 for token in tokens)


def test_a_token_is_an_hmac_keyed_with_the_nonce() -> None:
    # RFC 4231, test case 2.
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert rounds.token("Jefe", "what do ya want for nothing?") == expected


def test_a_seed_has_63_bits_and_depends_on_every_part_and_on_their_order() -> None:
    seeds = [rounds.seed(1, 2, "c-1"), rounds.seed(2, 1, "c-1"), rounds.seed(1, 2, "c-2"), rounds.seed(12, "c-1")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert rounds.seed(1, 2, "c-1") == seeds[0]
