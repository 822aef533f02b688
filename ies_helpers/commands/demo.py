"""`ies demo`."""

from pathlib import Path

from ies_helpers.commands.options import Out, look


def demo(out: Out = Path("demo")) -> None:
    """Explain one true, one false and one missed lesion of the shipped synthetic patient."""
    from ies_helpers.figures.folder import draw_folder, save_figure
    from ies_helpers.figures.plots import plot_lesions
    from ies_helpers.saliency.explain import explain as explain_lesions

    subject, network, lesions = look("demo", "unet", out, progress=False)
    print(f"{subject}\n{lesions}\n{lesions.table().round(2).to_string(index=False)}\n")
    chosen = [max(lesions.of(group), key=lambda le: (len(le) < 150, len(le))) for group in ("TP", "FP", "FN")]
    save_figure(plot_lesions(subject, lesions), out / "figures" / "lesions.png")
    for method, draws in (("smoothgrad", 8), ("gradcam++", 1)):
        explain_lesions(subject, network, chosen, out, method=method, draws=draws, progress=True, command="ies demo")
    pictures = [str(path) for path in draw_folder(out)]
    print(f"\nWhy did the network call this spot a lesion? Open {out / 'figures' / 'lesions.png'}, then:")
    print("\n".join(f"  {path}" for path in pictures))
    print(
        "\nGo on:  make lab                                 the chapters, in JupyterLab\n"
        "        ies explain demo --lesions TP --out mine   all true lesions, 50 draws\n"
        "        ies explain openms:patient26 --out mine    a real patient (downloads 8 MB)\n"
        "(from a checkout, ies is .venv/bin/ies)"
    )
