"""The first tables: trials and their leases, papers and where they came from."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "trials",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("series", sa.String(32), nullable=False),
        sa.Column("study", sa.Text, nullable=False),
        sa.Column("experiment", sa.Text, nullable=False),
        sa.Column("scale", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("measurements", sa.Text),
        sa.Column("cause", sa.Text),
        sa.Column("seconds", sa.Float),
        sa.Column("peak_memory", sa.BigInteger),
        sa.Column("machine", sa.Text, nullable=False),
        sa.Column("libraries", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Text, nullable=False),
        sa.UniqueConstraint("series", "index", "attempt", name="one_row_an_attempt"),
    )
    op.create_index("trials_by_study", "trials", ["study", "id"])
    op.create_table(
        "leases",
        sa.Column("series", sa.String(32), primary_key=True),
        sa.Column("index", sa.Integer, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("expires_at", sa.Float, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("leases")
    op.drop_table("trials")
