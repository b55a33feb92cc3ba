"""What arXiv and Hugging Face tell of a paper, and the day that lists go by."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_NEW = (
    sa.Column("author_names", sa.Text),
    sa.Column("categories", sa.Text),
    sa.Column("keywords", sa.Text),
    sa.Column("remark", sa.Text),
    sa.Column("journal", sa.Text),
    sa.Column("project_page", sa.Text),
    sa.Column("repository", sa.Text),
    sa.Column("stars", sa.Integer),
    sa.Column("votes_elsewhere", sa.Integer),
    sa.Column("submitter", sa.Text),
    sa.Column("day", sa.Date),
    sa.Column("added_at", sa.Text),
)


def upgrade() -> None:
    for column in _NEW:
        op.add_column("papers", column)
    op.execute("UPDATE papers SET day = coalesce(listed, submitted), added_at = '2026-11-24T00:00:00+00:00'")
    op.create_index("papers_by_day", "papers", ["day", "id"])
    op.create_index("papers_by_field", "papers", ["field", "day", "id"])
    op.create_index("papers_by_organisation", "papers", ["organisation", "day", "id"])
    op.create_index("papers_by_submitter", "papers", ["submitter", "day", "id"])
    op.create_index("told_on", "provenances", ["listed", "paper_id"])
    op.create_table(
        "turns",
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("free_at", sa.Float, nullable=False),
    )
    op.create_table(
        "fetches",
        sa.Column("query", sa.Text, primary_key=True),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
    )
    op.create_table(
        "paper_keywords",
        sa.Column("keyword", sa.Text, primary_key=True),
        sa.Column("paper_id", sa.Integer, primary_key=True),
    )
    op.create_index("keywords_by_paper", "paper_keywords", ["paper_id"])
    _keep_keywords()


def _keep_keywords() -> None:
    """Triggers that keep `paper_keywords` as the lists in `papers` are."""
    clear = "DELETE FROM paper_keywords WHERE paper_id = {}.id;"
    if op.get_bind().dialect.name == "postgresql":
        each = "SELECT jsonb_array_elements_text(coalesce(NEW.{}, '[]')::jsonb)"
        op.execute(
            "CREATE FUNCTION keep_keywords() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF TG_OP <> 'INSERT' THEN {clear.format('OLD')} END IF; "
            "IF TG_OP <> 'DELETE' THEN INSERT INTO paper_keywords (keyword, paper_id) "
            f"SELECT said.word, NEW.id FROM ({each.format('keywords')} "
            f"UNION {each.format('categories')}) AS said(word); END IF; RETURN NULL; END $$"
        )
        for event in ("INSERT", "UPDATE OF keywords, categories", "DELETE"):
            op.execute(
                f"CREATE TRIGGER keywords_{event.split()[0].lower()} AFTER {event} ON papers "
                "FOR EACH ROW EXECUTE FUNCTION keep_keywords()"
            )
    else:
        each = "SELECT value FROM json_each(coalesce(NEW.{}, '[]'))"
        fill = (
            "INSERT INTO paper_keywords (keyword, paper_id) SELECT value, NEW.id FROM "
            f"({each.format('keywords')} UNION {each.format('categories')});"
        )
        op.execute(f"CREATE TRIGGER keywords_insert AFTER INSERT ON papers BEGIN {fill} END")
        op.execute(
            "CREATE TRIGGER keywords_update AFTER UPDATE OF keywords, categories ON papers "
            f"BEGIN {clear.format('OLD')} {fill} END"
        )
        op.execute(f"CREATE TRIGGER keywords_delete AFTER DELETE ON papers BEGIN {clear.format('OLD')} END")


def downgrade() -> None:
    for event in ("insert", "update", "delete"):
        on = " ON papers" if op.get_bind().dialect.name == "postgresql" else ""
        op.execute(f"DROP TRIGGER keywords_{event}{on}")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION keep_keywords()")
    op.drop_table("paper_keywords")
    op.drop_index("papers_by_submitter", "papers")
    op.drop_index("papers_by_organisation", "papers")
    op.drop_table("fetches")
    op.drop_table("turns")
    op.drop_index("told_on", "provenances")
    op.drop_index("papers_by_field", "papers")
    op.drop_index("papers_by_day", "papers")
    with op.batch_alter_table("papers") as table:
        for column in _NEW:
            table.drop_column(column.name)
