"""Random matrices of the kinds that weights are made of, and the measure of what is lost."""

import torch


def snr(weight: torch.Tensor, found: torch.Tensor) -> float:
    """Signal to noise in dB."""
    weight, found = weight.double(), found.double()
    return float(10 * torch.log10(weight.square().sum() / (weight - found).square().sum()))


def gauss(N=256, K=2560, seed=0):
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed)) * 0.02


def laplace(N=256, K=2560, seed=0):
    u = torch.rand(N, K, generator=torch.Generator().manual_seed(seed)) - 0.5
    return -0.02 * u.sign() * torch.log1p(-2 * u.abs().clamp(max=0.4999999))


def t5(N=256, K=2560, seed=0):
    parts = torch.randn(6, N, K, generator=torch.Generator().manual_seed(seed))
    return 0.02 * parts[0] / parts[1:].square().mean(0).sqrt()


def outlier_columns(N=256, K=2560, seed=0):
    """Gaussian, with one column in a hundred ten times as large."""
    weight = gauss(N, K, seed)
    columns = torch.randperm(K, generator=torch.Generator().manual_seed(seed + 1))[: K // 100]
    weight[:, columns] *= 10
    return weight


KINDS = {"gauss": gauss, "Laplace": laplace, "t5": t5, "outlier columns": outlier_columns}
