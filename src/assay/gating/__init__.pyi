from .gated_attention import AttentionRecord as AttentionRecord
from .gated_attention import GatedAttention as GatedAttention
from .gated_attention import GatedDecoder as GatedDecoder
from .gated_attention import first_token_attention as first_token_attention
from .gated_attention import gate_statistics as gate_statistics
from .gated_attention import matched_ffn_dim as matched_ffn_dim
