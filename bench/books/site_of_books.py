"""A small Django application: a page from SQLite, and a table in memory as large as what such applications load."""

import os
import sqlite3

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connections, models
from django.urls import path
from django.shortcuts import render

ROWS = 60_000
DATABASE = os.environ["BOOKS_DATABASE"]  # a file; made if it is not there

PAGE = """<h1>{{ books|length }} books of {{ year }}</h1>
{% for book, price in books %}<p>{{ book.title }}, {{ price.0 }}: {{ price.1|floatformat:2 }}</p>
{% endfor %}"""

# What `django-admin startproject` puts there.
CONTRIBUTED = ["admin", "auth", "contenttypes", "sessions", "messages", "staticfiles"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
PROCESSORS = ["django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
              "django.contrib.messages.context_processors.messages"]
LOADERS = [("django.template.loaders.cached.Loader", [("django.template.loaders.locmem.Loader", {"books.html": PAGE})])]

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"file:{DATABASE}?mode=ro", "OPTIONS": {"uri": True}}},
    INSTALLED_APPS=["django.contrib." + name for name in CONTRIBUTED],
    MIDDLEWARE=MIDDLEWARE,
    ROOT_URLCONF=__name__,
    SECRET_KEY="of a benchmark",
    STATIC_URL="/static/",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {"context_processors": PROCESSORS, "loaders": LOADERS}}],
)
django.setup()

from django.contrib import admin  # noqa: E402 (after the setup)


class Book(models.Model):
    title = models.CharField(max_length=80)
    year = models.IntegerField()

    class Meta:
        app_label = "books"


def make_database():
    with sqlite3.connect(DATABASE) as database:
        database.execute("create table books_book (id integer primary key, title text, year integer)")
        database.executemany(
            "insert into books_book values (?, ?, ?)", ((i, f"Book {i}", 1900 + i % 120) for i in range(1, 2001))
        )


PRICES = {i: (f"isbn-{i:09d}", i * 7 % 9973 / 100) for i in range(ROWS)}

def books_of_a_year(request):
    year = int(request.GET.get("year", "1984"))
    books = [(book, PRICES[book.id * 13 % ROWS]) for book in Book.objects.filter(year=year)]
    return render(request, "books.html", {"year": year, "books": books})


urlpatterns = [path("admin/", admin.site.urls), path("", books_of_a_year)]
if not os.path.exists(DATABASE):
    make_database()
application = get_wsgi_application()


def ask_oneself():
    """One request: what is loaded with the first one is there. No connection to the database is left open."""
    environ = {
        "REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_NAME": "localhost", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.input": None, "wsgi.url_scheme": "http",
    }
    page = b"".join(application(environ, lambda status, headers: None))
    assert b"16 books of 1984" in page
    connections.close_all()


ask_oneself()
