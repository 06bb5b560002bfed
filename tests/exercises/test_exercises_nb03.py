"""The checks of notebook 03: what passes, and which mistake each wrong answer is told to be."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from frame import FromContext, answer_for
from torch.nn import functional as F

from mi_utils import grading, models, prompts
from mi_utils.grading.core import STOPPED

TEXT = "36 + 59 = 95"


def cached(model):
    return model.run_with_cache(prompts.encode(model, TEXT))


def middle_stream(model, *, scale=1.0, positions=None):
    _, cache = cached(model)
    return cache["resid_post", 0].detach()[:, 1:positions] * scale


def last_parts(model):
    _, cache = cached(model)
    parts, _ = cache.decompose_resid(model.cfg.n_layers, mode="all", return_labels=True)
    return parts[:, 0, -1].detach()


CONTEXTS = {
    "03.lens_by_hand": [
        lambda tiny: {"model": tiny, "stream": middle_stream(tiny)},
        lambda tiny: {
            "model": tiny,
            "stream": middle_stream(tiny, scale=3.0, positions=2),
        },  # a single position
    ],
    "03.rank": [lambda tiny: {}],
    "03.kl": [lambda tiny: {}],
    "03.marginal_bias": [lambda tiny: {}],
    "03.ridge": [lambda tiny: {}],
    "03.never_worse": [lambda tiny: {}],
    "03.decision_layer": [lambda tiny: {}],
    "03.find_the_bug": [
        lambda tiny: {"model": tiny, "parts": last_parts(tiny), "token": 284},
        lambda tiny: {"model": tiny, "parts": last_parts(tiny)[1:], "token": 0},
    ],
}

# ------------------------------------------------------------------ 1: the logit lens by hand


def through_lens(model, stream):
    return model.unembed(model.ln_final(stream))


def is_rms(model):
    return "RMS" in model.cfg.normalization_type


def rms(x, eps=0.0, dim=-1):
    return (x.square().mean(dim, keepdim=True) + eps).sqrt()


def off_mean(x):
    return x - x.mean(-1, keepdim=True)


def lens_with_own_norm(model, stream):
    if not is_rms(model):
        stream = off_mean(stream)
    return stream / rms(stream, model.cfg.eps) @ model.W_U + model.b_U


def lens_without_eps(model, stream):
    normed = (
        F.layer_norm(stream, stream.shape[-1:])
        if not is_rms(model)
        else F.rms_norm(stream, stream.shape[-1:])
    )
    return torch.einsum("bpd,dv->bpv", normed, model.unembed.W_U) + model.unembed.b_U


def lens_position_by_position(model, stream):
    rows = [model.unembed(model.ln_final(stream[:, i : i + 1])) for i in range(stream.shape[1])]
    return torch.cat(rows, dim=1)


LENS_RIGHT = {
    "model's": through_lens,
    "own": lens_with_own_norm,
    "no eps": lens_without_eps,
    "positions": lens_position_by_position,
    "package": models.unembed,
    "double": lambda m, x: through_lens(m, x).double(),
    "in place": lambda m, x: m.unembed(x.copy_(m.ln_final(x))),
    "gradients": torch.enable_grad()(through_lens),
    "normed twice": lambda m, x: through_lens(m, m.ln_final(x)),
}


def with_cached_scale(context):
    model = context["model"]
    _, cache = cached(model)
    scale = cache["ln_final.hook_scale"][:, 1:]
    return lambda model, stream: stream / scale @ model.W_U


def logits_of_the_model(context):
    logits, _ = cached(context["model"])
    return lambda model, stream: logits[:, 1:]


def lens_of_the_stream(context):
    logits = through_lens(**context)
    return lambda model, stream: logits


def run_the_rest(model, stream):
    anything = torch.zeros(stream.shape[:2], dtype=torch.int64)
    return model.run_with_hooks(anything, fwd_hooks=[("blocks.1.hook_resid_pre", lambda x, hook: stream)])


LENS_WRONG = {
    "shape": [
        lambda m, x: m.ln_final(x),
        lambda m, x: through_lens(m, x).tolist(),
        lambda m, x: (through_lens(m, x), x),
        lambda m, x: through_lens(m, x).mT,
        lambda m, x: through_lens(m, x).flatten(0, 1)[None, None],
    ],
    "no_batch": [lambda m, x: through_lens(m, x)[0], lambda m, x: through_lens(m, x[:1])],
    "last_position": [
        lambda m, x: through_lens(m, x)[:, -1],
        lambda m, x: through_lens(m, x[:, -1:]),
        lambda m, x: through_lens(m, x)[0, -1][None],
    ],
    "top_token": [lambda m, x: through_lens(m, x).argmax(-1), lambda m, x: through_lens(m, x).amax(-1)],
    "probabilities": [lambda m, x: through_lens(m, x).softmax(-1)],
    "log_probs": [lambda m, x: through_lens(m, x).log_softmax(dim=-1)],
    "no_norm": [lambda m, x: x @ m.W_U, lambda m, x: m.unembed(x)],
    "embedding": [
        lambda m, x: m.ln_final(x) @ m.W_E.T,
        lambda m, x: x @ m.W_E.T,
        lambda m, x: m.ln_final(x) @ m.embed.W_E.T + m.b_U,
    ],
    "norm_after": [
        lambda m, x: x @ m.W_U / rms(x @ m.W_U, m.cfg.eps),
        lambda m, x: F.layer_norm(m.unembed(x), (m.cfg.d_vocab,)),
        lambda m, x: F.rms_norm(x @ m.W_U, (m.cfg.d_vocab,)) + m.b_U,
    ],
    "other_norm": [
        lambda m, x: m.unembed(F.layer_norm(x, x.shape[-1:])),
        lambda m, x: off_mean(x) / rms(off_mean(x), m.cfg.eps) @ m.W_U,
        lambda m, x: x / x.std(-1, keepdim=True) @ m.W_U,
    ],
    "euclidean": [
        lambda m, x: m.unembed(x / x.norm(dim=-1, keepdim=True)),
        lambda m, x: F.normalize(x, dim=-1) @ m.W_U,
    ],
    "mean_square": [lambda m, x: x / (x.square().mean(-1, keepdim=True) + m.cfg.eps) @ m.W_U],
    "norm_axis": [
        lambda m, x: x / x.square().mean().sqrt() @ m.W_U,
        lambda m, x: x / rms(x, m.cfg.eps, dim=1) @ m.W_U,
        lambda m, x: x / rms(x, dim=(1, 2)) @ m.W_U,
        lambda m, x: x / rms(x, dim=0) @ m.W_U,
    ],
    "other_scale": [
        FromContext(with_cached_scale),
        lambda m, x: x @ m.W_U / 10.0,
        lambda m, x: x @ m.W_U / rms(x[:, -1:]),
        lambda m, x: x @ m.W_U / (x.abs().mean(-1, keepdim=True)),
        lambda m, x: x @ m.W_U / x.amax(-1, keepdim=True),
    ],
    "no_bias": [lambda m, x: m.ln_final(x) @ m.W_U, lambda m, x: x / rms(x, m.cfg.eps) @ m.unembed.W_U],
    "rest_of_model": [run_the_rest],
    "ignores_stream": [
        FromContext(logits_of_the_model),
        FromContext(lens_of_the_stream),
        lambda m, x: torch.zeros(*x.shape[:2], m.cfg.d_vocab),
    ],
    "something_else": [
        lambda m, x: -through_lens(m, x),
        lambda m, x: through_lens(m, x).roll(1, dims=-1),
        lambda m, x: through_lens(m, x + m.blocks[-1].mlp(x)),
        lambda m, x: through_lens(m, -x),
    ],
    "not_a_number": [
        lambda m, x: x / x.mean(-1, keepdim=True).sqrt() @ m.W_U,
        lambda m, x: torch.full((*x.shape[:2], m.cfg.d_vocab), float("nan")),
    ],
    STOPPED: [
        lambda stream: stream,
        lambda m, x: x @ m.W_E,
        FromContext(lambda context: through_lens(**context)),
    ],
}

# ------------------------------------------------------------------ 2: the rank of an answer


def answer_rank(log_probs, token):
    return (log_probs > log_probs[..., token, None]).sum(dim=-1)


def rank_by_loops(log_probs, token):
    return torch.tensor([[sum(v > row[token] for v in row.tolist()) for row in layer] for layer in log_probs])


def rank_by_sorting(log_probs, token):
    ordered = log_probs.sort(dim=-1).values
    own = log_probs[..., token : token + 1].contiguous()
    return log_probs.shape[-1] - torch.searchsorted(ordered, own, right=True)[..., 0]


RANK_RIGHT = {
    "compared": answer_rank,
    "loops": rank_by_loops,
    "sorted": rank_by_sorting,
    "difference": lambda lp, t: ((lp - lp[:, :, [t]]) > 0).count_nonzero(dim=2),
    "floats": lambda lp, t: (lp.exp() > lp[..., t].exp()[..., None]).float().sum(-1),
}
RANK_WRONG = {
    "shape": [
        lambda lp, t: answer_rank(lp, t).tolist(),
        lambda lp, t: answer_rank(lp, t)[..., None],
        lambda lp, t: answer_rank(lp, t).T,
        lambda lp, t: lp > lp[..., t, None],
        lambda lp, t: (lp > lp[..., t, None]).sum(),
    ],
    "last_position": [lambda lp, t: answer_rank(lp[:, -1], t), lambda lp, t: answer_rank(lp, t)[:, -1]],
    "last_layer": [lambda lp, t: answer_rank(lp, t)[-1], lambda lp, t: answer_rank(lp[-1], t)],
    "wrong_axis": [
        lambda lp, t: (lp > lp[..., t, None]).sum(dim=0),
        lambda lp, t: (lp > lp[..., t, None]).sum(dim=1),
        lambda lp, t: lp.argsort(dim=1, descending=True).argsort(dim=1)[..., t],
        lambda lp, t: lp.argsort(dim=0).argsort(dim=0)[..., t],
        lambda lp, t: lp.argsort(dim=1).argsort(dim=1)[..., t],
        lambda lp, t: (lp[..., t][:, None] > lp[..., t][None]).sum(dim=0),
    ],
    "one_based": [
        lambda lp, t: answer_rank(lp, t) + 1,
        lambda lp, t: 1 + (lp > lp[..., [t]]).sum(-1),
    ],
    "counts_itself": [lambda lp, t: (lp >= lp[..., t, None]).sum(-1)],
    "reversed": [
        lambda lp, t: (lp < lp[..., t, None]).sum(-1),
        lambda lp, t: (lp <= lp[..., t, None]).sum(-1),
        lambda lp, t: lp.argsort(-1).argsort(-1)[..., t],
    ],
    "token_at_rank": [
        lambda lp, t: lp.argsort(dim=-1, descending=True)[..., t],
        lambda lp, t: lp.sort(descending=True).indices[:, :, t],
        lambda lp, t: lp.argsort()[..., t],
    ],
    "fraction": [
        lambda lp, t: (lp > lp[..., t, None]).float().mean(-1),
        lambda lp, t: answer_rank(lp, t) / (lp.shape[-1] - 1),
    ],
    "yes_or_no": [lambda lp, t: lp.argmax(-1) == t, lambda lp, t: (lp.argmax(-1) != t).int()],
    "likelihood": [lambda lp, t: lp[..., t], lambda lp, t: lp[..., t].exp()],
    "capped": [
        lambda lp, t: answer_rank(lp, t).clamp(max=10),
        lambda lp, t: (lp.topk(100).values > lp[..., t, None]).sum(-1),
        lambda lp, t: (lp.topk(10).indices == t).long().cumsum(-1).eq(0).sum(-1),
    ],
    "ignores_token": [
        lambda lp, t: answer_rank(lp, 7),
        lambda lp, t: answer_rank(lp, 0),
        lambda lp, t: (lp > lp.amax(-1, keepdim=True)).sum(-1),
        lambda lp, t: lp.argmax(-1),
    ],
    "ties": [
        lambda lp, t: lp.argsort(-1, descending=True).argsort(-1)[..., t],
        lambda lp, t: (lp.argsort(-1, descending=True) == t).int().argmax(-1),
        lambda lp, t: (lp >= lp[..., t, None]).sum(-1) - 1,
    ],
    "something_else": [
        lambda lp, t: -answer_rank(lp, t),
        lambda lp, t: (lp > lp[..., t].mean()).sum(-1),
        lambda lp, t: answer_rank(lp, t) + t,
    ],
    STOPPED: [lambda lp: lp, lambda lp, t: (lp > lp[..., t]).sum(-1)],
}

# ------------------------------------------------------------------ 3: KL from the model


def kl_from_model(final_logits, lens_logits):
    p, q = final_logits.log_softmax(dim=-1), lens_logits.log_softmax(dim=-1)
    return (p.exp() * (p - q)).sum(dim=-1)


def kl_by_torch(final_logits, lens_logits):
    q, p = F.log_softmax(lens_logits, -1), F.log_softmax(final_logits, -1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def kl_by_entropies(final, lens_):
    p, q = final.softmax(-1), lens_ - lens_.logsumexp(-1, keepdim=True)
    return -(p * q).sum(-1) - torch.special.entr(p).sum(-1)


def kl_with_a_little_more(final, lens_):
    p, q = final.softmax(-1), lens_.softmax(-1)
    return (p * ((p + 1e-9).log() - (q + 1e-9).log())).sum(-1)


def logs(how: Callable) -> Callable:
    """From log-probabilities of final and lens."""

    def answer(final_logits, lens_logits):
        return how(final_logits.log_softmax(-1), lens_logits.log_softmax(-1))

    return answer


KL_RIGHT = {
    "sum": kl_from_model,
    "torch": kl_by_torch,
    "entropies": kl_by_entropies,
    "epsilon": kl_with_a_little_more,
    "distributions": lambda f, q: torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=f), torch.distributions.Categorical(logits=q)
    ),
    "probabilities": logs(lambda p, q: F.kl_div(q, p.exp(), reduction="none").sum(-1)),
    "double": lambda f, q: kl_from_model(f.double(), q.double()),
    "zeros": lambda f, q: (f.softmax(-1) * (f.softmax(-1) / q.softmax(-1)).log()).nan_to_num().sum(-1),
}


def kl_symmetric(p, q):
    middle = ((p.exp() + q.exp()) / 2).log()
    return 0.5 * ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1))


KL_WRONG = {
    "shape": [
        lambda f, q: kl_from_model(f, q)[..., None],
        lambda f, q: kl_from_model(f, q).tolist(),
        lambda f, q: f.softmax(-1) @ (f.log_softmax(-1) - q.log_softmax(-1)).mT,
    ],
    "over_positions": [
        lambda f, q: kl_from_model(f, q).mean(),
        lambda f, q: kl_from_model(f, q).sum(),
        lambda f, q: kl_from_model(f, q).mean(-1),
        lambda f, q: kl_from_model(f, q).mean().item(),
        logs(lambda p, q: F.kl_div(q, p, log_target=True)),
        logs(lambda p, q: F.kl_div(q, p, log_target=True, reduction="batchmean")),
        logs(lambda p, q: F.kl_div(q, p.exp(), reduction="sum")),
    ],
    "not_summed": [
        logs(lambda p, q: p.exp() * (p - q)),
        logs(lambda p, q: F.kl_div(q, p, log_target=True, reduction="none")),
    ],
    "reversed": [
        lambda f, q: kl_from_model(q, f),
        logs(lambda p, q: F.kl_div(p, q, log_target=True, reduction="none").sum(-1)),
        logs(lambda p, q: F.kl_div(p, q.exp(), reduction="none").sum(-1)),
    ],
    "negative": [
        logs(lambda p, q: (p.exp() * (q - p)).sum(-1)),
        logs(lambda p, q: (q.exp() * (p - q)).sum(-1)),
    ],
    "unnormalised": [
        lambda f, q: (f.softmax(-1) * (f - q)).sum(-1),
        lambda f, q: (f.softmax(-1) * (f.log_softmax(-1) - q)).sum(-1),
        lambda f, q: (f.softmax(-1) * (f - q.log_softmax(-1))).sum(-1),
        lambda f, q: (f.exp() * (f - q)).sum(-1),
        lambda f, q: F.kl_div(q, f, log_target=True, reduction="none").sum(-1),
    ],
    "mean_over_vocabulary": [
        logs(lambda p, q: (p.exp() * (p - q)).mean(-1)),
        logs(lambda p, q: F.kl_div(q, p, log_target=True, reduction="none").mean(-1)),
    ],
    "bits": [
        lambda f, q: kl_from_model(f, q) / math.log(2),
        lambda f, q: (f.softmax(-1) * (f.softmax(-1).log2() - q.softmax(-1).log2())).sum(-1),
    ],
    "cross_entropy": [
        logs(lambda p, q: -(p.exp() * q).sum(-1)),
        lambda f, q: F.cross_entropy(q.movedim(-1, 1), f.softmax(-1).movedim(-1, 1), reduction="none"),
        logs(lambda p, q: -(q.exp() * p).sum(-1)),
    ],
    "kl_div_arguments": [
        lambda f, q: F.kl_div(q.softmax(-1), f.softmax(-1), reduction="none").sum(-1),
        logs(lambda p, q: F.kl_div(q, p.exp(), log_target=True, reduction="none").sum(-1)),
        lambda f, q: F.kl_div(q.softmax(-1), f.softmax(-1), log_target=True, reduction="none").sum(-1),
    ],
    "not_a_number": [
        logs(lambda p, q: F.kl_div(q, p, reduction="none").sum(-1)),
        lambda f, q: F.kl_div(q, f, reduction="none").sum(-1),
        lambda f, q: (f * (f.log() - q.log())).sum(-1),
    ],
    "symmetric": [
        lambda f, q: kl_from_model(f, q) + kl_from_model(q, f),
        lambda f, q: (kl_from_model(f, q) + kl_from_model(q, f)) / 2,
        logs(kl_symmetric),
    ],
    "unweighted": [
        logs(lambda p, q: (p - q).sum(-1)),
        logs(lambda p, q: (p - q).mean(-1)),
        logs(lambda p, q: (p - q).abs().mean(-1)),
        logs(lambda p, q: (p - q).abs().sum(-1)),
    ],
    "absolute": [logs(lambda p, q: (p.exp() * (p - q).abs()).sum(-1))],
    "one_token": [
        logs(lambda p, q: p.amax(-1) - q.gather(-1, p.argmax(-1, keepdim=True))[..., 0]),
        logs(lambda p, q: (p.exp() * (p - q)).gather(-1, p.argmax(-1, keepdim=True)).squeeze(-1)),
    ],
    "wrong_axis": [
        lambda f, q: (f.softmax(0) * (f.log_softmax(0) - q.log_softmax(0))).sum(-1),
        lambda f, q: (f.softmax(1) * (f.log_softmax(1) - q.log_softmax(1))).sum(-1),
        logs(lambda p, q: (p.exp() * (p - q)).sum(0)),
        lambda f, q: (f.softmax(1) * (f.log_softmax(1) - q.log_softmax(1))).sum(1),
    ],
    "underflow": [
        lambda f, q: (f.softmax(-1) * (f.softmax(-1).log() - q.softmax(-1).log())).sum(-1),
        lambda f, q: (f.softmax(-1) * (f.softmax(-1) / q.softmax(-1)).log()).sum(-1),
    ],
    "something_else": [
        lambda f, q: (f.softmax(-1) - q.softmax(-1)).abs().sum(-1) / 2,
        lambda f, q: kl_from_model(f, q) * 2,
        lambda f, q: (f.softmax(-1) * (f.softmax(-1) / q.softmax(-1)).log()).sum(-1).nan_to_num(),
        lambda f, q: (f - q).square().mean(-1),
    ],
    STOPPED: [
        lambda f: f,
        logs(lambda p, q: F.kl_div(q, p, log_target=True, reduction="positions")),
        lambda f, q: kl_from_model(f, q) if f.ndim == 3 else f.sum(2),  # counts its axes from the left
    ],
}

# ------------------------------------------------------------------ 4: what is wrong everywhere


def marginal_bias(final_log_probs, lens_log_probs):
    p, q = final_log_probs.exp().mean(dim=0), lens_log_probs.exp().mean(dim=0)
    return (p * (p.log() - q.log())).sum()


def marginal_in_logs(final, lens_):
    n = math.log(len(final))
    p, q = final.logsumexp(0) - n, lens_.logsumexp(0) - n
    return F.kl_div(q, p, log_target=True, reduction="sum")


def from_means(how: Callable) -> Callable:
    return lambda final, lens_: how(final.exp().mean(0), lens_.exp().mean(0))


def each_kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


MARGINAL_RIGHT = {
    "means": marginal_bias,
    "logsumexp": marginal_in_logs,
    "number": lambda f, q: float(marginal_bias(f, q)),
    "clamped": from_means(lambda p, q: (p * (p.clamp_min(1e-30).log() - q.clamp_min(1e-30).log())).sum()),
    "normalised sums": lambda f, q: each_kl(
        f.exp().sum(0).log().log_softmax(-1), q.exp().sum(0).log().log_softmax(-1)
    ),
}
MARGINAL_WRONG = {
    "shape": [
        lambda f, q: marginal_bias(f, q)[None],
        lambda f, q: None,
        lambda f, q: [marginal_bias(f, q)],
        from_means(lambda p, q: (p, q)),
        lambda f, q: f.exp() * (f - q),
    ],
    "per_token": [each_kl, lambda f, q: (f.exp() * (f - q.exp().mean(0).log())).sum(-1)],
    "not_summed": [from_means(lambda p, q: p * (p / q).log())],
    "mean_of_kl": [
        lambda f, q: each_kl(f, q).mean(),
        lambda f, q: each_kl(f, q).sum(),
        lambda f, q: F.kl_div(q, f, log_target=True, reduction="batchmean"),
        lambda f, q: float(each_kl(q, f).mean()),
    ],
    "mean_of_logs": [
        lambda f, q: each_kl(f.mean(0), q.mean(0)),
        lambda f, q: each_kl(f.mean(0).log_softmax(-1), q.mean(0).log_softmax(-1)),
        lambda f, q: (f.exp().mean(0) * (f - q).mean(0)).sum(),
    ],
    "one_side_averaged": [
        lambda f, q: each_kl(f, q.exp().mean(0).log()).mean(),
        lambda f, q: each_kl(f.exp().mean(0).log(), q).mean(),
    ],
    "reversed": [
        lambda f, q: marginal_bias(q, f),
        from_means(lambda p, q: F.kl_div(p.log(), q, reduction="sum")),
    ],
    "negative": [
        from_means(lambda p, q: (p * (q.log() - p.log())).sum()),
        from_means(lambda p, q: (q * (p / q).log()).sum()),
    ],
    "not_averaged": [lambda f, q: each_kl(f.exp().sum(0).log(), q.exp().sum(0).log())],
    "wrong_axis": [
        lambda f, q: each_kl(f.mean(-1), q.mean(-1)),
        lambda f, q: each_kl(f.mean(-1).log_softmax(0), q.mean(-1).log_softmax(0)),
    ],
    "always_zero": [
        lambda f, q: each_kl(f.exp().mean(-1).log(), q.exp().mean(-1).log()),
        lambda f, q: each_kl(f.exp().mean(1).log(), q.exp().mean(1).log()).abs(),
        from_means(lambda p, q: (p - q).sum()),
        lambda f, q: 0.0,
    ],
    "mean_over_vocabulary": [
        from_means(lambda p, q: (p * (p / q).log()).mean()),
        from_means(lambda p, q: F.kl_div(q.log(), p)),
    ],
    "bits": [from_means(lambda p, q: (p * (p / q).log2()).sum())],
    "cross_entropy": [
        from_means(lambda p, q: -(p * q.log()).sum()),
        from_means(
            lambda p, q: F.nll_loss(q.log()[None].repeat(len(p), 1), torch.arange(len(p)), p, reduction="sum")
        ),
    ],
    "softmax_twice": [
        from_means(lambda p, q: each_kl(p.log_softmax(-1), q.log_softmax(-1))),
        from_means(lambda p, q: (p.softmax(0) * (p.softmax(0) / q.softmax(0)).log()).sum()),
    ],
    "symmetric": [
        lambda f, q: marginal_bias(f, q) + marginal_bias(q, f),
        lambda f, q: (marginal_bias(f, q) + marginal_bias(q, f)) / 2,
    ],
    "unweighted": [
        from_means(lambda p, q: (p.log() - q.log()).sum()),
        from_means(lambda p, q: (p - q).abs().sum()),
        from_means(lambda p, q: (p.log() - q.log()).abs().mean()),
        from_means(lambda p, q: (p.log() - q.log()).abs().sum()),
    ],
    "not_a_number": [
        lambda f, q: (f.mean(0) * (f.mean(0).log() - q.mean(0).log())).sum(),
        lambda f, q: float("nan"),
    ],
    "something_else": [
        from_means(lambda p, q: torch.special.entr(q).sum() - torch.special.entr(p).sum()),
        lambda f, q: 1.0,
        lambda f, q: each_kl(f, q).mean() - marginal_bias(f, q),
    ],
    STOPPED: [lambda f: f, lambda f, q: each_kl(f.exp().mean("token"), q)],
}

# ------------------------------------------------------------------ 5: ridge regression


def ridge_translator(stream, final, strength):
    h, y = stream - stream.mean(0), final - final.mean(0)
    n = len(h)
    matrix = torch.linalg.solve(h.T @ h / n + strength * torch.eye(h.shape[1]), h.T @ y / n)
    return matrix, final.mean(0) - stream.mean(0) @ matrix


def ridge_with_a_column_of_ones(stream, final, strength):
    n, d = stream.shape
    x = torch.cat([stream, torch.ones(n, 1)], dim=1)
    penalty = n * strength * torch.eye(d + 1)
    penalty[-1, -1] = 0
    solved = torch.linalg.inv(x.T @ x + penalty) @ x.T @ final
    return solved[:-1], solved[-1]


def ridge_with_more_rows(stream, final, strength):
    """The penalty as observations: rows of which 0 is wanted."""
    n, d = stream.shape
    rows = torch.cat([stream - stream.mean(0), (n * strength) ** 0.5 * torch.eye(d)])
    matrix = torch.linalg.lstsq(rows.double(), torch.cat([final, torch.zeros(d, d)]).double()).solution
    return [matrix, (final.double() - stream.double() @ matrix).mean(0)]


def ridge_by_svd(stream, final, strength):
    h = stream - stream.mean(0)
    u, s, v = torch.linalg.svd(h, full_matrices=False)
    matrix = v.T @ torch.diag(s / (s**2 + len(h) * strength)) @ u.T @ final
    return matrix, (final - stream @ matrix).mean(0)


def ridge_by_cov(stream, final, strength):
    d = stream.shape[1]
    both = torch.cov(torch.cat([stream, final], dim=1).T, correction=0)
    matrix = torch.linalg.solve(both[:d, :d] + strength * torch.eye(d), both[:d, d:])
    return matrix, final.mean(0) - stream.mean(0) @ matrix


RIDGE_RIGHT = {
    "centred": ridge_translator,
    "ones": ridge_with_a_column_of_ones,
    "rows": ridge_with_more_rows,
    "svd": ridge_by_svd,
    "cov": ridge_by_cov,
}


def bias_after(matrix, stream, final):
    return final.mean(0) - stream.mean(0) @ matrix


def fitted(
    left: Callable,
    right: Callable | None = None,
    *,
    bias: Callable = bias_after,
    then: Callable = lambda m: m,
) -> Callable:
    """From what is solved (``left``: centred h, y, strength -> a square matrix; ``right`` likewise)."""

    def answer(stream, final, strength):
        h, y = stream - stream.mean(0), final - final.mean(0)
        matrix = then(
            torch.linalg.solve(
                left(h, y, strength), (right or (lambda h, y, s: h.T @ y / len(h)))(h, y, strength)
            )
        )
        return matrix, bias(matrix, stream, final)

    return answer


def eye(h):
    return torch.eye(h.shape[1])


def usual(h, y, s):
    return h.T @ h / len(h) + s * eye(h)


def not_centred(stream, final, strength, *, bias=lambda m, h, y: torch.zeros(len(m))):
    matrix = torch.linalg.solve(usual(stream, final, strength), stream.T @ final / len(stream))
    return matrix, bias(matrix, stream, final)


def centres_in_place(stream, final, strength):
    h_mean, y_mean = stream.mean(0), final.mean(0)
    stream -= h_mean
    final -= y_mean
    matrix, _ = ridge_translator(stream, final, strength)
    return matrix, y_mean - h_mean @ matrix


def penalises_the_bias(stream, final, strength, per=1.0):
    x = torch.cat([stream, torch.ones(len(stream), 1)], dim=1)
    solved = torch.linalg.solve(
        x.T @ x / len(x) + strength * per * torch.eye(x.shape[1]), x.T @ final / len(x)
    )
    return solved[:-1], solved[-1]


def fit_of_the_other_way(stream, final, strength):
    return ridge_translator(final, stream, strength)


def least_squares(stream, final, strength):
    x = torch.cat([stream, torch.ones(len(stream), 1)], dim=1)
    solved = torch.linalg.lstsq(x, final).solution
    return solved[:-1], solved[-1]


def by_cov(stream, final, strength):
    d = stream.shape[1]
    both = torch.cov(torch.cat([stream, final], dim=1).T)
    matrix = torch.linalg.solve(both[:d, :d] + strength * torch.eye(d), both[:d, d:])
    return matrix, bias_after(matrix, stream, final)


def with_bias(bias: Callable) -> Callable:
    def answer(stream, final, strength):
        matrix, _ = ridge_translator(stream, final, strength)
        return matrix, bias(matrix, stream.mean(0), final.mean(0))

    return answer


def at_strength(change: Callable) -> Callable:
    return lambda stream, final, strength: ridge_translator(stream, final, change(strength, stream))


RIDGE_WRONG = {
    "shape": [
        lambda h, y, s: ridge_translator(h, y, s)[1],
        lambda h, y, s: (*ridge_translator(h, y, s), 0.0),
        lambda h, y, s: (ridge_translator(h, y, s)[0], ridge_translator(h, y, s)[1][None]),
        lambda h, y, s: None,
        lambda h, y, s: (ridge_translator(h, y, s)[0], 0.0),
        lambda h, y, s: h @ ridge_translator(h, y, s)[0],
    ],
    "only_matrix": [lambda h, y, s: ridge_translator(h, y, s)[0]],
    "order": [lambda h, y, s: ridge_translator(h, y, s)[::-1]],
    "transposed": [
        fitted(usual, then=lambda m: m.T),
        lambda h, y, s: (ridge_translator(h, y, s)[0].T, ridge_translator(h, y, s)[1]),
    ],
    "not_centred": [
        not_centred,
        functools.partial(not_centred, bias=bias_after),
        lambda h, y, s: not_centred(h, y, s / len(h)),
        lambda h, y, s: (torch.linalg.lstsq(h, y).solution, torch.zeros(5)),
        lambda h, y, s: (not_centred(h, y - y.mean(0), s)[0], y.mean(0)),
    ],
    "penalises_bias": [penalises_the_bias, lambda h, y, s: penalises_the_bias(h, y, s, per=1 / len(h))],
    "no_penalty": [least_squares, fitted(lambda h, y, s: h.T @ h / len(h)), at_strength(lambda s, h: 0.0)],
    "penalty_not_scaled": [fitted(lambda h, y, s: h.T @ h + s * eye(h), lambda h, y, s: h.T @ y)],
    "other_penalty": [
        fitted(lambda h, y, s: h.T @ h / len(h) + s * len(h) * eye(h)),
        at_strength(lambda s, h: s * h.shape[1]),  # F.mse_loss divides by the width too
        at_strength(lambda s, h: s / 2),
        at_strength(lambda s, h: 2 * s),
        at_strength(lambda s, h: s**2),
        at_strength(lambda s, h: s**0.5),
        at_strength(lambda s, h: s**2 / len(h)),
        at_strength(lambda s, h: -s),
        at_strength(lambda s, h: 1 / s),
    ],
    "ignores_strength": [
        at_strength(lambda s, h: 1e-3),
        at_strength(lambda s, h: 1e-2),
        at_strength(lambda s, h: 1),
    ],
    "relative_penalty": [
        fitted(lambda h, y, s: h.T @ h / len(h) + s * torch.diag(h.var(0, correction=0))),
        fitted(lambda h, y, s: (h.T @ h / len(h)) * (1 + s * eye(h))),
    ],
    "n_minus_one": [by_cov],
    "swapped": [
        fit_of_the_other_way,
        lambda h, y, s: ridge_translator(y, h, s / len(h)),
        fitted(lambda h, y, s: y.T @ y / len(y) + s * eye(y), lambda h, y, s: y.T @ h / len(y)),
    ],
    "difference": [
        lambda h, y, s: ridge_translator(h, y - h, s),
        lambda h, y, s: ridge_translator(h, y - h, s / len(h)),
    ],
    "towards_identity": [
        lambda h, y, s: (ridge_translator(h, y - h, s / len(h))[0] + torch.eye(5), y.mean(0)),
        lambda h, y, s: (
            ridge_translator(h, y - h, s)[0] + torch.eye(5),
            ridge_translator(h, y - h, s)[1],
        ),
        fitted(usual, lambda h, y, s: h.T @ y / len(h) + s * eye(h)),
    ],
    "other_matrix": [
        lambda h, y, s: (torch.eye(5), bias_after(torch.eye(5), h, y)),
        fitted(lambda h, y, s: h.T @ h / len(h) + s),  # on every entry, not on the diagonal
        fitted(usual, lambda h, y, s: y.T @ h / len(h)),
    ],
    "no_bias": [
        with_bias(lambda m, h, y: torch.zeros_like(y)),
        fitted(usual, bias=lambda m, h, y: torch.zeros(5)),
    ],
    "bias_sign": [with_bias(lambda m, h, y: h @ m - y), with_bias(lambda m, h, y: y + h @ m)],
    "bias_without_matrix": [with_bias(lambda m, h, y: y), with_bias(lambda m, h, y: y - h)],
    "bias_of_transposed": [with_bias(lambda m, h, y: y - m @ h), with_bias(lambda m, h, y: y - h @ m.T)],
    "other_bias": [
        with_bias(lambda m, h, y: h),
        lambda h, y, s: (ridge_translator(h, y, s)[0], y[0] - h[0] @ ridge_translator(h, y, s)[0]),
    ],
    "in_place": [centres_in_place],
    STOPPED: [lambda h, y: (h, y), lambda h, y, s: (h @ y, y), fitted(lambda h, y, s: h @ h.T + s * eye(h))],
}

# ------------------------------------------------------------------ 6: keep the best


def keep_best(losses, translators):
    best = losses.nan_to_num(nan=float("inf")).argmin(dim=0)
    return translators[best, torch.arange(len(best))]


def keep_best_by_loop(losses, translators):
    kept, least = translators[0].clone(), losses[0].clone()
    for loss, candidate in zip(losses[1:], translators[1:], strict=True):
        better = loss < least
        kept[better] = candidate[better]
        least = torch.where(better, loss, least)
    return kept


def keep_best_by_gather(losses, translators):
    best = torch.where(losses.isfinite(), losses, 1e9).min(0).indices
    index = best[None, :, None].expand(1, -1, translators.shape[-1])
    return translators.gather(0, index)[0]


def keep_best_layer_by_layer(losses, translators):
    chosen = []
    for layer in range(losses.shape[1]):
        sound = [c for c in range(len(losses)) if not math.isnan(losses[c, layer])]
        chosen.append(translators[min(sound, key=lambda c: losses[c, layer]), layer])
    return torch.stack(chosen)


BEST_RIGHT = {
    "argmin": keep_best,
    "loop": keep_best_by_loop,
    "gather": keep_best_by_gather,
    "layers": keep_best_layer_by_layer,
}


def chosen(choose: Callable) -> Callable:
    """From a function of the losses that says which check is best for each layer."""
    return lambda losses, translators: translators[choose(losses), torch.arange(losses.shape[1])]


def no_nan(losses, instead=float("inf")):
    return losses.nan_to_num(nan=instead)


def loop_unless_worse(losses, translators):
    kept, least = translators[0].clone(), losses[0].clone()
    for loss, candidate in zip(losses, translators, strict=True):
        for layer in range(len(loss)):
            if loss[layer] > least[layer]:
                continue
            kept[layer], least[layer] = candidate[layer], loss[layer]
    return kept


def early_stopping(losses, translators):
    kept = translators[0].clone()
    for layer in range(losses.shape[1]):
        for check in range(1, len(losses)):
            if not losses[check, layer] < losses[check - 1, layer]:
                break
            kept[layer] = translators[check, layer]
    return kept


def loop_against(reference: Callable) -> Callable:
    def answer(losses, translators):
        kept = translators[0].clone()
        for check in range(1, len(losses)):
            better = losses[check] < reference(losses, check)
            kept[better] = translators[check, better]
        return kept

    return answer


def only_sound_checks(losses, translators):
    sound = losses.isfinite().all(dim=1)
    return keep_best(losses[sound], translators[sound])


BEST_WRONG = {
    "shape": [
        lambda losses, t: keep_best(losses, t).T,
        lambda losses, t: keep_best(losses, t)[None],
        lambda losses, t: keep_best(losses, t).tolist(),
        lambda losses, t: t.gather(0, no_nan(losses).argmin(0)[None, :, None]),
        lambda losses, t: t,
    ],
    "all_pairs": [lambda losses, t: t[no_nan(losses).argmin(0)], lambda losses, t: t[losses.argmin(dim=0)]],
    "per_check": [
        lambda losses, t: t[torch.arange(len(t)), no_nan(losses).argmin(dim=1)],
        lambda losses, t: t[torch.arange(len(t)), losses.argmin(dim=-1)],
    ],
    "which_only": [
        lambda losses, t: no_nan(losses).argmin(0),
        lambda losses, t: no_nan(losses).amin(0),
    ],
    "other_layer": [
        lambda losses, t: t[no_nan(losses).argmin(0), 0],
        lambda losses, t: t[no_nan(losses).argmin(0)][:, -1],
    ],
    "one_check_for_all": [
        lambda losses, t: t[losses.nanmean(dim=1).argmin()],
        lambda losses, t: t[losses.mean(dim=1).argmin()],
        lambda losses, t: t[no_nan(losses).sum(1).argmin()],
        lambda losses, t: t[1],
    ],
    "last_check": [lambda losses, t: t[-1]],
    "always_start": [lambda losses, t: t[0]],
    "nan_wins": [
        chosen(lambda losses: losses.argmin(dim=0)),
        chosen(lambda losses: losses.min(dim=0).indices),
        chosen(lambda losses: losses.nan_to_num().argmin(dim=0)),
        loop_unless_worse,
    ],
    "largest": [
        chosen(lambda losses: losses.argmax(0)),
        chosen(lambda losses: no_nan(losses, -1.0).argmax(0)),
    ],
    "drops_the_start": [
        chosen(lambda losses: no_nan(losses)[1:].argmin(0) + 1),
        lambda losses, t: keep_best(losses[1:], t[1:]),
    ],
    "off_by_one": [
        chosen(lambda losses: no_nan(losses)[1:].argmin(0)),
        chosen(lambda losses: (no_nan(losses).argmin(0) + 1).clamp(max=len(losses) - 1)),
    ],
    "start_where_nan": [
        chosen(lambda losses: losses.isnan().any(0).logical_not() * no_nan(losses).argmin(0)),
        lambda losses, t: torch.where(losses.isnan().any(0)[:, None], t[0], keep_best(losses, t)),
    ],
    "drops_whole_check": [only_sound_checks],
    "first_dip": [early_stopping],
    "better_than_previous": [loop_against(lambda losses, check: losses[check - 1])],
    "better_than_start": [loop_against(lambda losses, check: losses[0])],
    "something_else": [
        lambda losses, t: t.mean(0),
        lambda losses, t: -keep_best(losses, t),
        lambda losses, t: keep_best(losses, t).flip(0),
        lambda losses, t: keep_best(losses, t) if len(losses) == 6 else t.mean(0),
    ],
    STOPPED: [lambda losses: losses, lambda losses, t: t[no_nan(losses).argmin(1), torch.arange(t.shape[1])]],
}

# ------------------------------------------------------------------ 7: the layer of decision


def decision_layer(top, answer):
    row = len(top)
    while row > 0 and int(top[row - 1]) == answer:
        row -= 1
    return row if row < len(top) else None


def decision_by_others(top, answer):
    others = [row for row, token in enumerate(top) if token != answer]
    first = others[-1] + 1 if others else 0
    return None if first == len(top) else first


def decision_by_tensor(top, answer):
    stays = (torch.as_tensor(top) == answer).int().flip(0).cumprod(0).sum()
    return len(top) - stays if stays > 0 else None


def decision_by_all(top, answer):
    return next((row for row in range(len(top)) if all(token == answer for token in top[row:])), None)


def compared_at_once(top, answer):
    elsewhere = (top != answer).nonzero()
    first = int(elsewhere[-1]) + 1 if len(elsewhere) else 0
    return first if first < len(top) else None


DECISION_RIGHT = {
    "compared at once": compared_at_once,
    "as a list": lambda top, answer: decision_layer(top.tolist(), answer),
    "back": decision_layer,
    "others": decision_by_others,
    "tensor": decision_by_tensor,
    "all": decision_by_all,
}


def tokens_of(top):
    return [int(token) for token in top]


def settled(choose: Callable) -> Callable:
    """None unless the last row is the answer; else from the tokens, the answer and the right row."""

    def answer_(top, answer):
        return choose(tokens_of(top), answer, decision_layer(top, answer)) if top[-1] == answer else None

    return answer_


def walk_back(top, answer):
    for row in range(len(top) - 1, -1, -1):
        if top[row] != answer:
            return row + 1 if row + 1 < len(top) else None


def walk_back_one_too_far(top, answer):
    row = len(top) - 1
    if top[row] != answer:
        return None
    while row >= 0 and top[row] == answer:
        row -= 1
    return row


def longest(top, answer, right):
    best = start = length = most = 0
    for row, token in enumerate(top):
        length = length + 1 if token == answer else 0
        start = row - length + 1
        if length > most:
            most, best = length, start
    return best


def reversed_list(top, answer):
    back = [token == answer for token in top[::-1]]
    stays = back.index(False) if False in back else len(back)
    return len(top) - stays if stays else None


DECISION_WRONG = {
    "not_a_row": [
        lambda top, answer: decision_layer(top, answer) is not None,
        lambda top, answer: [decision_layer(top, answer)],
        lambda top, answer: decision_layer(top, answer) / len(top) if top[-1] == answer else None,
        lambda top, answer: str(decision_layer(top, answer)),
        lambda top, answer: torch.as_tensor(top) == answer,
    ],
    "first_time": [
        settled(lambda top, answer, right: top.index(answer)),
        lambda top, answer: next((row for row, token in enumerate(top) if token == answer), None),
        lambda top, answer: next((row for row, token in enumerate(top) if token == answer), -1),
        lambda top, answer: (torch.as_tensor(top) == answer).int().argmax(),
    ],
    "last_time": [
        settled(lambda top, answer, right: len(top) - 1),
        lambda top, answer: max((row for row, token in enumerate(top) if token == answer), default=None),
    ],
    "count": [
        lambda top, answer: sum(int(token == answer) for token in top),
        settled(lambda top, answer, right: top.count(answer)),
    ],
    "from_the_end": [
        settled(lambda top, answer, right: len(top) - right),
        settled(lambda top, answer, right: len(top) - 1 - right),
        settled(lambda top, answer, right: right - len(top)),
    ],
    "off_by_one": [
        walk_back_one_too_far,
        settled(lambda top, answer, right: right + 1),
        settled(lambda top, answer, right: max(right - 1, 0)),
        settled(lambda top, answer, right: right - 1 if right else None),
    ],
    "zero_is_none": [walk_back, lambda top, answer: decision_layer(top, answer) or None],
    "longest_run": [settled(longest)],
    "not_none": [
        lambda top, answer: decision_layer(top, answer) if top[-1] == answer else -1,
        lambda top, answer: decision_layer(top, answer) if top[-1] == answer else len(top),
        lambda top, answer: decision_layer(top, top[-1]),
        lambda top, answer: max((r for r in range(len(top)) if top[r] != answer), default=-1) + 1,
    ],
    "lists_only": [
        reversed_list,
        lambda top, answer: decision_layer(top, answer) if isinstance(top, list) else None,
    ],
    "something_else": [
        lambda top, answer: None if len(top) else 0,
        lambda top, answer: 0,
        lambda top, answer: answer,
        settled(lambda top, answer, right: right if right else len(top) - 1),
    ],
    STOPPED: [
        lambda top: 0,
        lambda top, answer: top.rindex(answer),
        lambda top, answer: decision_layer(top, answer) if answer in top else top[len(top)],
    ],
}

# ------------------------------------------------------------------ 8: find the bug


def model_scale(model, x):
    return rms(x if is_rms(model) else off_mean(x), model.cfg.eps)[..., 0]


def contributions(model, parts, token):
    return parts @ model.W_U[:, token] / model_scale(model, parts.sum(0))


def shares_by_cache(model, parts, token):
    """The scale as the model's own norm computes it."""
    kept = []
    hook = model.ln_final.hook_scale
    hook.add_hook(lambda value, hook: kept.append(value.clone()))
    model.ln_final(parts.sum(0)[None, None])
    hook.remove_hooks()
    return parts @ model.W_U[:, token] / kept[0].item()


def shares_by_unembedding(model, parts, token):
    normed = parts / model_scale(model, parts.sum(0))
    return model.unembed(normed[None])[0, :, token] - model.unembed.b_U[token]


def shares_without_eps(model, parts, token):
    total = parts.sum(0)
    scale = total.square().mean().sqrt() if is_rms(model) else total.std(correction=0)
    return torch.stack([part @ model.unembed.W_U[:, token] / scale for part in parts])


def shares_centred(model, parts, token):
    """Where the norm centres, W_U has no component along ones, so that nothing changes."""
    return contributions(model, parts if is_rms(model) else off_mean(parts), token)


SHARES_RIGHT = {
    "scale": contributions,
    "hook": shares_by_cache,
    "unembedding": shares_by_unembedding,
    "no eps": shares_without_eps,
    "centred": shares_centred,
    "double": lambda m, p, t: contributions(m, p, t).double(),
    "in place": lambda m, p, t: p.div_(model_scale(m, p.sum(0))) @ m.W_U[:, t],
    "gradients": torch.enable_grad()(contributions),
}


def popular(model, parts, token):
    return model.unembed(model.ln_final(parts[None]))[0, :, token]


def after_each(model, parts, token):
    return model.unembed(model.ln_final(parts.cumsum(0)[None]))[0, :, token]


def one_logit(model, stream, token):
    return model.unembed(model.ln_final(stream[None, None]))[0, 0, token]


def shares_of_earlier(context):
    shares = contributions(**context)
    return lambda model, parts, token: shares


def raw(model, parts, token):
    return parts @ model.W_U[:, token]


def in_all_tokens(model, parts):
    return parts @ model.W_U / model_scale(model, parts.sum(0))


SHARES_WRONG = {
    "shape": [
        lambda m, p, t: contributions(m, p, t)[:, None],
        lambda m, p, t: contributions(m, p, t).tolist(),
        lambda m, p, t: p / model_scale(m, p.sum(0)),
        lambda m, p, t: dict(enumerate(contributions(m, p, t))),
        lambda m, p, t: m.unembed(m.ln_final(p[None]))[..., t],
    ],
    "all_tokens": [
        lambda m, p, t: in_all_tokens(m, p),
        lambda m, p, t: m.unembed(m.ln_final(p[None]))[0],
    ],
    "total": [
        lambda m, p, t: contributions(m, p, t).sum(),
        lambda m, p, t: one_logit(m, p.sum(0), t),
        lambda m, p, t: contributions(m, p.sum(0)[None], t),
    ],
    "each_alone": [
        popular,
        lambda m, p, t: popular(m, p, t) - m.b_U[t],
        lambda m, p, t: m.ln_final(p[None])[0] @ m.W_U[:, t],
        lambda m, p, t: p / rms(p) @ m.W_U[:, t],
    ],
    "no_norm": [raw, lambda m, p, t: m.unembed(p[None])[0, :, t]],
    "bias_in_each": [
        lambda m, p, t: m.unembed((p / model_scale(m, p.sum(0)))[None])[0, :, t],
        lambda m, p, t: contributions(m, p, t) + m.b_U[t],
    ],
    "bias_spread": [lambda m, p, t: contributions(m, p, t) + m.b_U[t] / len(p)],
    "running_scale": [
        lambda m, p, t: raw(m, p, t) / model_scale(m, p.cumsum(0)),
        lambda m, p, t: m.unembed((p / model_scale(m, p.cumsum(0))[:, None])[None])[0, :, t],
    ],
    "logits_so_far": [
        after_each,
        lambda m, p, t: torch.stack([one_logit(m, p[: i + 1].sum(0), t) for i in range(len(p))]),
    ],
    "running_difference": [
        lambda m, p, t: after_each(m, p, t).diff(prepend=torch.zeros(1)),
        lambda m, p, t: after_each(m, p, t).diff(prepend=m.b_U[t][None]),
    ],
    "left_out": [
        lambda m, p, t: one_logit(m, p.sum(0), t) - popular(m, p.sum(0) - p, t),
        lambda m, p, t: popular(m, p.sum(0) - p, t),
    ],
    "euclidean": [lambda m, p, t: raw(m, p, t) / p.sum(0).norm()],
    "mean_square": [lambda m, p, t: raw(m, p, t) / (p.sum(0).square().mean() + m.cfg.eps)],
    "scale_of_mean": [lambda m, p, t: raw(m, p, t) / model_scale(m, p.mean(0))],
    "sum_of_scales": [lambda m, p, t: raw(m, p, t) / model_scale(m, p).sum()],
    "other_norm": [
        lambda m, p, t: off_mean(p) @ m.W_U[:, t] / rms(off_mean(p.sum(0)), m.cfg.eps),
        lambda m, p, t: raw(m, p, t) / p.sum(0).std(),
        lambda m, p, t: raw(m, p, t) / p.sum(0).var(correction=0).sqrt(),
    ],
    "embedding": [lambda m, p, t: p @ m.W_E[t] / model_scale(m, p.sum(0))],
    "log_probs": [
        lambda m, p, t: in_all_tokens(m, p).log_softmax(-1)[:, t],
        lambda m, p, t: in_all_tokens(m, p).softmax(-1)[:, t],
        lambda m, p, t: m.unembed(m.ln_final(p[None]))[0].log_softmax(-1)[:, t],
        lambda m, p, t: m.unembed(m.ln_final(p[None]))[0].softmax(-1)[:, t],
    ],
    "centred": [lambda m, p, t: contributions(m, p, t) - in_all_tokens(m, p).mean(-1)],
    "fractions": [
        lambda m, p, t: contributions(m, p, t) / contributions(m, p, t).sum(),
        lambda m, p, t: contributions(m, p, t).softmax(0),
    ],
    "forced": [
        lambda m, p, t: popular(m, p, t) * contributions(m, p, t).sum() / popular(m, p, t).sum(),
        lambda m, p, t: popular(m, p, t) * one_logit(m, p.sum(0), t) / popular(m, p, t).sum(),
        lambda m, p, t: contributions(m, p, t).flip(0),
        lambda m, p, t: popular(m, p, t) + (contributions(m, p, t) - popular(m, p, t)).mean(),
        lambda m, p, t: contributions(m, p, t) + m.b_U[t] * (torch.arange(len(p)) == 0),
    ],
    "ignores_token": [lambda m, p, t: contributions(m, p, 284)],
    "ignores_parts": [FromContext(shares_of_earlier)],
    "does_not_add_up": [
        lambda m, p, t: contributions(m, p, t).abs(),
        lambda m, p, t: torch.zeros(len(p)),
        lambda m, p, t: torch.full((len(p),), float("nan")),
        lambda m, p, t: contributions(m, p, t) - contributions(m, p, 11),
    ],
    STOPPED: [
        lambda m, p: p,
        lambda m, p, t: model_scale(m, p.sum(0)) / m.W_U[t] * p,
        lambda m, p, t: m.unembed(m.ln_final(p[None]))[0, :, :, t],
    ],
}

RIGHT = {
    "03.lens_by_hand": LENS_RIGHT,
    "03.rank": RANK_RIGHT,
    "03.kl": KL_RIGHT,
    "03.marginal_bias": MARGINAL_RIGHT,
    "03.ridge": RIDGE_RIGHT,
    "03.never_worse": BEST_RIGHT,
    "03.decision_layer": DECISION_RIGHT,
    "03.find_the_bug": SHARES_RIGHT,
}
WRONG = {
    "03.lens_by_hand": LENS_WRONG,
    "03.rank": RANK_WRONG,
    "03.kl": KL_WRONG,
    "03.marginal_bias": MARGINAL_WRONG,
    "03.ridge": RIDGE_WRONG,
    "03.never_worse": BEST_WRONG,
    "03.decision_layer": DECISION_WRONG,
    "03.find_the_bug": SHARES_WRONG,
}
OF_A_MODEL = ("03.lens_by_hand", "03.find_the_bug")


# In `tiny` the unembedding is the embedding, whatever the mistake.
MODEL_OF_WRONG_ANSWERS = "llama_model"


def tell(exercise, answer, model):
    """The mistake's name, or how else the check ended."""
    given = CONTEXTS[exercise][0](model)
    verdict = grading.check(exercise, answer_for(answer, given), **given)
    return verdict.mistake or verdict.status


@pytest.mark.parametrize("exercise", OF_A_MODEL)
def test_right_answers_pass_with_a_layer_norm_as_well(exercise, gpt2_model):
    for context in CONTEXTS[exercise]:
        given = context(gpt2_model)
        verdicts = {
            name: grading.check(exercise, answer, **given) for name, answer in RIGHT[exercise].items()
        }
        assert {name: verdict for name, verdict in verdicts.items() if verdict.status != "passed"} == {}


AS_WITH_RMS_NORM = {  # those that do the same whatever the norm is
    "03.lens_by_hand": {
        "shape",
        "no_batch",
        "last_position",
        "top_token",
        "probabilities",
        "log_probs",
        "no_norm",
    }
    | {"embedding", "rest_of_model", "ignores_stream", "something_else"},
    "03.find_the_bug": {
        "shape",
        "all_tokens",
        "total",
        "no_norm",
        "bias_in_each",
        "bias_spread",
        "running_scale",
    }
    | {
        "logits_so_far",
        "running_difference",
        "left_out",
        "scale_of_mean",
        "sum_of_scales",
        "embedding",
        "log_probs",
    }
    | {"centred", "fractions", "ignores_token", "ignores_parts"},
}


@pytest.mark.parametrize("exercise", OF_A_MODEL)
@pytest.mark.parametrize("architecture", ["gpt2_model", "tiny"])
def test_wrong_answers_are_told_by_name_in_other_models(exercise, architecture, request):
    model = request.getfixturevalue(architecture)
    names = AS_WITH_RMS_NORM[exercise] - ({"embedding"} if architecture == "tiny" else set())
    told = {
        (name, i): tell(exercise, one, model) for name in names for i, one in enumerate(WRONG[exercise][name])
    }
    assert {where: name for where, name in told.items() if name != where[0]} == {}


def with_layer_norm_by_hand(model, stream):
    centred = off_mean(stream)
    return centred / rms(centred, model.cfg.eps) @ model.W_U


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        ("no_bias", lambda m, x: m.ln_final(x) @ m.W_U),
        ("no_bias", with_layer_norm_by_hand),
        ("other_norm", lambda m, x: x / rms(x, m.cfg.eps) @ m.W_U + m.b_U),
        ("other_norm", lambda m, x: F.rms_norm(x, x.shape[-1:]) @ m.W_U),
        ("euclidean", lambda m, x: off_mean(x) / off_mean(x).norm(dim=-1, keepdim=True) @ m.W_U + m.b_U),
        (
            "mean_square",
            lambda m, x: m.unembed(off_mean(x) / (x.var(-1, correction=0, keepdim=True) + m.cfg.eps)),
        ),
        ("norm_after", lambda m, x: F.layer_norm(x @ m.W_U, (m.cfg.d_vocab,))),
        ("norm_after", lambda m, x: F.layer_norm(m.unembed(x), (m.cfg.d_vocab,))),
        ("norm_after", lambda m, x: F.rms_norm(x @ m.W_U, (m.cfg.d_vocab,))),
        ("norm_after", lambda m, x: F.rms_norm(m.unembed(x), (m.cfg.d_vocab,))),
        ("other_scale", lambda m, x: m.unembed(x / 3.0)),
    ],
)
def test_mistakes_about_a_layer_norm_are_told_by_name(mistake, answer, gpt2_model):
    assert tell("03.lens_by_hand", answer, gpt2_model) == mistake


@pytest.mark.parametrize(
    ("mistake", "answer"),
    [
        ("each_alone", popular),
        ("each_alone", lambda m, p, t: off_mean(p) / rms(off_mean(p), m.cfg.eps) @ m.W_U[:, t]),
        ("other_norm", lambda m, p, t: raw(m, p, t) / rms(p.sum(0), m.cfg.eps)),
        ("other_norm", lambda m, p, t: raw(m, p, t) / p.sum(0).std()),
        ("embedding", lambda m, p, t: off_mean(p) @ m.W_E[t] / model_scale(m, p.sum(0))),
        ("euclidean", lambda m, p, t: raw(m, p, t) / off_mean(p.sum(0)).norm()),
        ("mean_square", lambda m, p, t: raw(m, p, t) / (p.sum(0).var(correction=0) + m.cfg.eps)),
        ("forced", lambda m, p, t: contributions(m, p, t) + m.b_U[t] * (torch.arange(len(p)) == 0)),
    ],
)
def test_mistakes_about_shares_of_a_layer_norm_are_told_by_name(mistake, answer, gpt2_model):
    assert tell("03.find_the_bug", answer, gpt2_model) == mistake


def test_the_answer_expected_is_what_the_model_computes(tiny, llama_model, gpt2_model):
    for model in (tiny, llama_model, gpt2_model):
        logits, _ = cached(model)
        token = 284
        shares = contributions(model, last_parts(model), token)
        torch.testing.assert_close(
            shares.sum() + model.b_U[token], logits[0, -1, token], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("exercise", OF_A_MODEL)
def test_a_check_leaves_the_model_as_it_was(exercise, llama_model, gpt2_model):
    for model in (llama_model, gpt2_model):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        bias = model.unembed.b_U.clone()
        for answer in (*RIGHT[exercise].values(), *WRONG[exercise]["no_norm"], *WRONG[exercise][STOPPED]):
            tell(exercise, answer, model)
        assert torch.equal(model.unembed.b_U, bias)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_bias_comes_back_where_the_answer_stops_with_another_one(llama_model):
    def stops(model, stream):
        assert not model.b_U.any(), "another bias"
        return through_lens(model, stream)

    verdict = grading.check("03.lens_by_hand", stops, **CONTEXTS["03.lens_by_hand"][0](llama_model))
    assert verdict.mistake == STOPPED and "another bias" in verdict.text
    assert not llama_model.b_U.any()


def test_what_is_handed_to_the_check_stays_as_it_was(llama_model):
    for exercise, name in (("03.lens_by_hand", "stream"), ("03.find_the_bug", "parts")):
        given = CONTEXTS[exercise][0](llama_model)
        before = given[name].clone()
        assert grading.check(exercise, RIGHT[exercise]["in place"], **given).status == "passed"
        assert torch.equal(given[name], before)


def test_a_sequence_for_which_the_row_is_wrong_is_shown():
    verdict = grading.check("03.decision_layer", lambda top, answer: 0)
    assert "For top = [1042, 311, 284, 284] and answer = 284 it returned 0; it should be 2." in verdict.text
    verdict = grading.check("03.decision_layer", reversed_list)
    assert "It stopped with ValueError: step must be greater than zero" in verdict.text


def test_shares_that_do_not_add_up_are_told_with_the_logit_of_the_model(gpt2_model):
    given = CONTEXTS["03.find_the_bug"][0](gpt2_model)
    logits, _ = cached(gpt2_model)
    verdict = grading.check("03.find_the_bug", lambda m, p, t: torch.zeros(len(p)), **given)
    bias, logit = gpt2_model.b_U[284], logits[0, -1, 284]
    assert f"With the bias, yours come to {bias:.3f}; the logit is {logit:.3f}." in verdict.text
