package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/function"
	"github.com/weir-run/weir/invoke"
	"github.com/weir-run/weir/proxy"
	"github.com/weir-run/weir/queue"
)

// Async is the queue of asynchronous calls. Its errors wrap those of package
// queue.
type Async interface {
	// Submit keeps a call and returns once the store has it. With a key, one
	// of the same function and key within the store's window is kept once:
	// the ID is then that of the first, and duplicate is true.
	Submit(ctx context.Context, m *queue.Message, key string) (id queue.ID, duplicate bool, err error)
	// Call is what is known of one.
	Call(ctx context.Context, id queue.ID) (queue.Call, error)
	// Cancel ends one that has not ended, and returns what it is then.
	Cancel(ctx context.Context, id queue.ID) (queue.Call, error)
	DeadLetters
}

// DeadLetters are the calls that were given up.
type DeadLetters interface {
	// DeadLetters lists up to n, oldest first, of places above after: those
	// of one function, or of all where ref is zero. They have no Header and no
	// Body.
	DeadLetters(ctx context.Context, ref function.Ref, after uint64, n int) ([]queue.DeadLetter, error)
	// DeadLetter is one of them, whole.
	DeadLetter(ctx context.Context, id queue.ID) (queue.DeadLetter, error)
	// Resend makes a new call of one, and drops it once that is kept.
	Resend(ctx context.Context, id queue.ID) (queue.ID, error)
	// Drop forgets one for good.
	Drop(ctx context.Context, id queue.ID) error
}

const (
	// DefaultAsyncMaxBody is OpenFaaS's: what its queue takes of a message.
	DefaultAsyncMaxBody = 1 << 20
	// asyncTime bounds what the queue may take over a request: a store that is
	// away is to be told while the client still waits.
	asyncTime = 10 * time.Second
	// asyncReadTime bounds the reading of a body that is to be kept whole.
	asyncReadTime = time.Minute
	// maxIdempotencyKey bounds a caller's Idempotency-Key.
	maxIdempotencyKey = 255
	// retryStore is when a store that is full or away may be asked again, in
	// seconds.
	retryStore = 5

	asyncCallPath = "/async-call/"

	headerIdempotencyKey = "Idempotency-Key"
	headerCallbackURL    = "X-Callback-Url"
)

// submit is an asynchronous call. It wakes nothing: who delivers it does.
func (a *api) submit(w http.ResponseWriter, q *request) {
	rest := slashed(q.rest)
	if path := private(rest); path != "" {
		answerPrivate(w, q, path)
		return
	}
	if a.g.cfg.Async == nil {
		say(w, http.StatusServiceUnavailable, "this weir has no queue for asynchronous calls (WEIR_DATA_DIR or WEIR_NATS_URL): call /function/"+q.name)
		return
	}
	started := time.Now()
	key, err := a.g.checkSubmit(q.Request)
	var m *queue.Message
	if err == nil {
		m, err = a.g.message(w, q, rest, started)
	}
	if err != nil {
		if q.Body != nil && q.Body != http.NoBody {
			endAfter(w)
		}
		a.refuseSubmit(w, q, err)
		return
	}
	a.accept(w, q, m, key)
}

// accept has the queue keep the call, and only then says so.
func (a *api) accept(w http.ResponseWriter, q *request, m *queue.Message, key string) {
	ctx, cancel := context.WithTimeout(q.Context(), asyncTime)
	defer cancel()
	id, duplicate, err := a.g.cfg.Async.Submit(ctx, m, key)
	if err != nil {
		a.refuseSubmit(w, q, err)
		return
	}
	h := w.Header()
	h["Location"] = []string{asyncCallPath + id.String()}
	h[contract.HeaderCallID] = []string{m.CallID}
	if m.CallID == "" {
		h[contract.HeaderCallID] = []string{id.String()}
	}
	h[headerStartTime] = []string{strconv.FormatInt(m.Accepted.UnixNano(), 10)}
	if duplicate {
		h[headerDuplicate] = []string{"true"}
	}
	w.WriteHeader(http.StatusAccepted)
}

// headerDuplicate is on the 202 of a call that was there already.
const headerDuplicate = "X-Weir-Duplicate"

// checkSubmit looks at what the request says of the call, before any of its
// body is read.
func (g *Gateway) checkSubmit(r *http.Request) (key string, err error) {
	bad := func(reason, format string, args ...any) (string, error) {
		return "", &refusal{http.StatusBadRequest, reason, fmt.Sprintf(format, args...), 0}
	}
	if id, ok := oneValue(r, contract.HeaderCallID); !ok || id != "" && !validCallID(id) {
		return bad("call_id", "%s", wantCallID)
	}
	key, ok := oneValue(r, headerIdempotencyKey)
	if !ok || !visible(key) || len(key) > maxIdempotencyKey {
		return bad("key", "%s is to be given once, with 1 to %d visible characters of ASCII", headerIdempotencyKey, maxIdempotencyKey)
	}
	callback, ok := oneValue(r, headerCallbackURL)
	switch {
	case !ok:
		return bad("callback", "%s is to be given once", headerCallbackURL)
	case callback == "":
	case g.cfg.CheckCallback == nil:
		return bad("callback", "this weir sends no callbacks: leave %s out, and ask at the Location of the 202", headerCallbackURL)
	default:
		if err := g.cfg.CheckCallback(callback); err != nil {
			return bad("callback", "%s: %v", headerCallbackURL, err)
		}
	}
	if !proxy.ValidHost(r.Host) {
		return bad("host", "the Host has characters that none may have")
	}
	if most := g.cfg.AsyncMaxBody; r.ContentLength > most {
		return "", errAsyncBody(most)
	}
	return key, nil
}

// oneValue is the only value of a header. An empty one counts as none.
func oneValue(r *http.Request, name string) (value string, ok bool) {
	switch values := r.Header[name]; len(values) {
	case 0:
		return "", true
	case 1:
		return values[0], true
	}
	return "", false
}

// visible says whether there is nothing but visible ASCII.
func visible(text string) bool {
	for i := range len(text) {
		if text[i] <= ' ' || text[i] >= 0x7f {
			return false
		}
	}
	return true
}

func errAsyncBody(most int64) error {
	return &refusal{http.StatusRequestEntityTooLarge, "body",
		fmt.Sprintf("the request body is larger than the %d bytes that weir keeps of an asynchronous call (WEIR_ASYNC_MAX_BODY)", most), 0}
}

// message is the request as it is kept.
func (g *Gateway) message(w http.ResponseWriter, q *request, path string, started time.Time) (*queue.Message, error) {
	body, err := g.readWhole(w, q)
	if err != nil {
		return nil, err
	}
	callID, _ := oneValue(q.Request, contract.HeaderCallID)
	callback, _ := oneValue(q.Request, headerCallbackURL)
	return &queue.Message{
		Function: q.entry.Function().Ref, Method: q.Method, Path: path, Host: q.Host,
		Header: keptHeader(q.Request), Body: body, CallID: callID, Callback: callback, Accepted: started,
	}, nil
}

// readWhole reads the body, which is known not to be announced as too long.
func (g *Gateway) readWhole(w http.ResponseWriter, q *request) ([]byte, error) {
	if q.Body == nil || q.Body == http.NoBody {
		return nil, nil
	}
	// Of unknown length it may be as long as any.
	reserve := int(g.cfg.AsyncMaxBody)
	if q.ContentLength >= 0 {
		reserve = int(q.ContentLength)
	}
	l := g.lane(q.entry)
	if err := l.keepBytes(reserve); err != nil {
		return nil, err
	}
	defer func() { _ = l.keepBytes(-reserve) }()
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(asyncReadTime))
	body, err := invoke.ReadBody(q.Request, g.cfg.AsyncMaxBody)
	if err != nil {
		return nil, err
	}
	_ = control.SetReadDeadline(time.Time{})
	return body, nil
}

// keptHeader is the header as it was sent, without what was between the client
// and weir only, and with what weir tells of it: whom it came from.
func keptHeader(r *http.Request) http.Header {
	kept := make(http.Header, len(r.Header)+2)
	named := r.Header["Connection"]
	for name, values := range r.Header {
		if !betweenPeers(name) && !listed(named, name) {
			kept[name] = values
		}
	}
	kept[headerForwardedFor] = []string{forwardedFor(r)}
	if r.Host != "" && kept[headerForwardedHost] == nil {
		kept[headerForwardedHost] = []string{r.Host}
	}
	return kept
}

// betweenPeers says whether a header is about one connection (RFC 9110, 7.6.1),
// or about how the body comes over it.
func betweenPeers(name string) bool {
	switch name {
	case "Connection", "Expect", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
		"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	}
	return false
}

// listed says whether comma-separated lists hold the name.
func listed(lists []string, name string) bool {
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			if strings.EqualFold(strings.TrimSpace(item), name) {
				return true
			}
		}
	}
	return false
}

// refuseSubmit answers a call that is not kept.
func (a *api) refuseSubmit(w http.ResponseWriter, q *request, err error) {
	var own, logged *refusal
	var body *invoke.RequestError
	switch {
	case errors.As(err, &own):
	case errors.Is(err, invoke.ErrBodyTooLarge):
		own = errAsyncBody(a.g.cfg.AsyncMaxBody).(*refusal)
	case errors.As(err, &body):
		own = &refusal{body.Status, "body", http.StatusText(body.Status) + ": " + body.Error(), 0}
	case q.Context().Err() != nil:
		// Nobody is there who could be told; half an answer must not be one.
		panic(http.ErrAbortHandler)
	default:
		own = a.queueRefusal(err)
		logged = &refusal{own.status, own.reason, own.text + ": " + err.Error(), 0}
	}
	if logged == nil {
		logged = own
	}
	a.g.lane(q.entry).refused(logged)
	a.refuse(w, own)
}

// endAfter has the connection end with the answer: what the client still sends
// is not waited for.
func endAfter(w http.ResponseWriter) {
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex()
	_ = control.SetReadDeadline(time.Now().Add(lingerTime))
	w.Header()["Connection"] = closeValue
}

// lingerTime is how long a client may go on sending a body that is not wanted:
// to close at once could take the answer away from it.
const lingerTime = 500 * time.Millisecond

// refuse answers with a refusal.
func (a *api) refuse(w http.ResponseWriter, why *refusal) {
	if why.retryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(why.retryAfter))
	}
	say(w, why.status, why.text)
}

// refused counts an asynchronous call that was not taken.
func (l *lane) refused(why *refusal) {
	l.done.count(familyRefusals, why.reason)
	if why.status == http.StatusServiceUnavailable {
		l.tell(why)
	}
}
