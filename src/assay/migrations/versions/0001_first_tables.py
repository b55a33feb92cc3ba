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
    op.create_table(
        "papers",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("slug", sa.Text),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("abstract", sa.Text),
        sa.Column("abstract_source", sa.Text),
        sa.Column("submitted", sa.Date),
        sa.Column("listed", sa.Date),
        sa.Column("authors", sa.Integer),
        sa.Column("organisation", sa.Text),
        sa.Column("comments", sa.Integer),
        sa.Column("field", sa.Text),
        sa.Column("sentence", sa.Text),
        sa.UniqueConstraint("slug", name="one_paper_a_slug"),
    )
    op.create_table(
        "paper_ids",
        sa.Column("kind", sa.String(16), primary_key=True),
        sa.Column("value", sa.Text, primary_key=True),
        sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), nullable=False),
    )
    op.create_index("ids_by_paper", "paper_ids", ["paper_id"])
    op.create_table(
        "provenances",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("paper_id", sa.Integer, sa.ForeignKey("papers.id"), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("listed", sa.Date),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("seen_at", sa.Text, nullable=False),
        sa.UniqueConstraint("paper_id", "source", "digest", name="told_once_a_source"),
    )
    op.create_table(
        "controls",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("provenances")
    op.drop_table("paper_ids")
    op.drop_table("papers")
    op.drop_table("controls")
    op.drop_table("leases")
    op.drop_table("trials")
