"""Names of the modules of DCVC-SDD, by what they are for and by who runs them."""

ADAPTORS = ("feature_adaptor", "feature_adaptor2", "feature_adaptor", "feature_adaptor3")
"""Which one reads the kept feature, by the P frame's position modulo 4."""
MOTION: tuple[str, ...] = (
    "optic_flow",
    "mv_encoder",
    "mv_hyper_prior_encoder",
    "mv_hyper_prior_decoder",
    "mv_y_prior_fusion_adaptor_0",
    "mv_y_prior_fusion_adaptor_1",
    "mv_y_prior_fusion",
    "mv_y_spatial_prior_adaptor_1",
    "mv_y_spatial_prior_adaptor_2",
    "mv_y_spatial_prior_adaptor_3",
    "mv_y_spatial_prior",
    "mv_decoder",
    "bit_estimator_z_mv",
)
MINING: tuple[str, ...] = (
    "feature_adaptor_I",
    "feature_adaptor",
    "feature_adaptor2",
    "feature_adaptor3",
    "lstm",
    "feature_extractor",
    "feature_extractor_hidden",
    "align_s",
    "align_d",
    "context_fusion_net",
    "context_fusion_net_hidden",
    "context_hidden_fusion1",
    "context_hidden_fusion2",
    "context_hidden_fusion3",
)
PICTURE: tuple[str, ...] = (
    "contextual_encoder",
    "contextual_hyper_prior_encoder",
    "contextual_hyper_prior_decoder",
    "temporal_prior_encoder",
    "y_prior_fusion_adaptor_0",
    "y_prior_fusion_adaptor_1",
    "y_prior_fusion",
    "y_spatial_prior_adaptor_1",
    "y_spatial_prior_adaptor_2",
    "y_spatial_prior_adaptor_3",
    "y_spatial_prior",
    "contextual_decoder",
    "recon_generation_net",
    "bit_estimator_z",
)
SENDER_ONLY: tuple[str, ...] = (
    "optic_flow",
    "mv_encoder",
    "mv_hyper_prior_encoder",
    "contextual_encoder",
    "contextual_hyper_prior_encoder",
)
SIDES = ("enc", "dec")
