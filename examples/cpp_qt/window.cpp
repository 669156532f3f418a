#include "window.hpp"

#include <QDragEnterEvent>
#include <QHBoxLayout>
#include <QMimeData>
#include <QStatusBar>

Window::Window() {
    layOut();
    connectConversation();
    enter(State::Loading);
}

void Window::open(const QString &bundle) {
    conversation_.open(bundle);
}

void Window::layOut() {
    setWindowTitle("Valley2");
    setAcceptDrops(true);
    picture_ = new QLabel("Drop a picture here");
    picture_->setAlignment(Qt::AlignCenter);
    picture_->setMinimumSize(260, 200);
    transcript_ = new QTextEdit;
    transcript_->setReadOnly(true);
    question_ = new QLineEdit;
    question_->setPlaceholderText("Ask about the picture");
    button_ = new QPushButton;
    progress_ = new QProgressBar;
    progress_->setMinimumWidth(220);
    statusBar()->addPermanentWidget(progress_);

    auto *ask = new QHBoxLayout;
    ask->addWidget(question_);
    ask->addWidget(button_);
    auto *talk = new QVBoxLayout;
    talk->addWidget(transcript_);
    talk->addLayout(ask);
    auto *whole = new QHBoxLayout;
    whole->addWidget(picture_, 1);
    whole->addLayout(talk, 1);
    setCentralWidget(new QWidget);
    centralWidget()->setLayout(whole);
    resize(720, 360);
}

void Window::connectConversation() {
    connect(button_, &QPushButton::clicked, this, &Window::press);
    connect(question_, &QLineEdit::returnPressed, button_, &QPushButton::click);
    connect(&conversation_, &Conversation::opened, this, [this] { enter(State::Ready); });
    connect(&conversation_, &Conversation::looked, this, [this](const QImage &preview) {
        picture_->setPixmap(QPixmap::fromImage(preview).scaled(picture_->size(), Qt::KeepAspectRatio));
    });
    connect(&conversation_, &Conversation::progressed, this, [this](const QString &stage, int done, int total) {
        progress_->setFormat(QString("%1 %2 of %3").arg(stage).arg(done).arg(total));
        progress_->setRange(0, total);
        progress_->setValue(done);
    });
    connect(&conversation_, &Conversation::said, this,
            [this](const QString &piece) { append(piece, palette().color(QPalette::Text)); });
    connect(&conversation_, &Conversation::stopped, this, [this] { append(" (stopped)", Qt::gray); });
    connect(&conversation_, &Conversation::finished, this, [this] {
        append("\n\n", Qt::gray);
        enter(State::Ready);
    });
    for (const auto sentence : {&Conversation::warned, &Conversation::failed})
        connect(&conversation_, sentence, this, [this](const QString &text) { append(text + "\n", Qt::darkRed); });
}

void Window::enter(State state) {
    state_ = state;
    statusBar()->showMessage(state == State::Loading ? "Loading" : state == State::Ready ? "Ready" : "Answering");
    progress_->setVisible(state != State::Ready);
    progress_->reset();
    button_->setText(state == State::Answering ? "Stop" : "Ask");
    button_->setEnabled(state != State::Loading);
}

void Window::press() {
    if (state_ == State::Answering) {
        conversation_.stop();
    } else if (state_ == State::Ready && !question_->text().isEmpty()) {
        append(question_->text() + "\n", Qt::darkBlue);
        conversation_.ask(question_->text());
        question_->clear();
        enter(State::Answering);
    }
}

void Window::append(const QString &text, const QColor &colour) {
    transcript_->moveCursor(QTextCursor::End);
    transcript_->setTextColor(colour);
    transcript_->insertPlainText(text);
}

void Window::dragEnterEvent(QDragEnterEvent *event) {
    if (event->mimeData()->hasUrls())
        event->acceptProposedAction();
}

void Window::dropEvent(QDropEvent *event) {
    for (const QUrl &url : event->mimeData()->urls())
        conversation_.look(url.toLocalFile());
}
