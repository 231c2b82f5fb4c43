package gateway

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/weir-run/weir/contract"
	"github.com/weir-run/weir/fleet"
	"github.com/weir-run/weir/function"
)

// route is one line of the router.
type route struct {
	// path is the whole path, or ends in a slash: then a name follows.
	path string
	// methods that it takes, HEAD with GET; none is any method.
	methods []string
	// open: whoever reaches the gateway may. Every other route asks for
	// credentials, and so does what is not in the table and begins with
	// protectedPrefix.
	open bool
	// further: more path may follow the name.
	further bool
	answer  func(a *api, w http.ResponseWriter, q *request)
}

// protectedPrefix is that of OpenFaaS's administration.
const protectedPrefix = "/system/"

var (
	gets     = []string{http.MethodGet}
	writes   = []string{http.MethodPost, http.MethodPut, http.MethodDelete}
	allKinds = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}
)

// routes are all there is. Requests whose Host names a function do not come
// here. What is called most stands first.
var routes = []route{
	{"/function/", nil, true, true, called((*api).call)},
	{"/async-function/", nil, true, true, submitted},
	{"/async-call/", gets, true, false, queued((*api).asyncCall)},
	{"/wake-function/", []string{http.MethodGet, http.MethodPost}, true, false, named((*api).wake)},
	{"/status-function/", gets, true, false, named((*api).status)},
	{"/status-functions", gets, true, false, (*api).statuses},
	{"/status-functions-stream", gets, true, false, (*api).stream},
	{"/healthz", gets, true, false, (*api).healthz},

	{"/async-call/", []string{http.MethodDelete}, false, false, queued((*api).cancel)},
	{"/system/functions", gets, false, false, (*api).list},
	{"/system/functions", writes, false, false, deploys},
	{"/system/function/", gets, false, false, named((*api).describe)},
	{"/system/scale-function/", []string{http.MethodPost}, false, false, (*api).scale},
	{"/system/dead-letters", gets, false, false, (*api).deadLetters},
	{"/system/dead-letters/", []string{http.MethodGet, http.MethodPost, http.MethodDelete}, false, false, queued((*api).deadLetter)},
	{"/system/info", gets, false, false, (*api).info},
	{"/system/namespaces", gets, false, false, (*api).namespaces},
	{"/system/namespace/", allKinds, false, false, namespacing},
	{"/system/secrets", allKinds, false, false, secrets},
	{"/system/logs", gets, false, false, logs},
}

// request is one request to a route.
type request struct {
	*http.Request
	// name follows the route's path, rest is what follows the name: path and
	// query as they were sent.
	name, rest string
	// entry is the function, of a route that names one.
	entry *fleet.Entry
}

// match says whether the target, a raw path and query, is of the route.
func (t *route) match(target string) (name, rest string, ok bool) {
	after, ok := strings.CutPrefix(target, t.path)
	if !ok {
		return "", "", false
	}
	if !strings.HasSuffix(t.path, "/") {
		return "", after, after == "" || after[0] == '?'
	}
	end := strings.IndexAny(after, "/?")
	if end < 0 {
		end = len(after)
	}
	name, rest = after[:end], after[end:]
	if !t.further && strings.HasPrefix(rest, "/") {
		return "", "", false
	}
	return name, rest, true
}

func (t *route) takes(method string) bool {
	if t.methods == nil {
		return true
	}
	for _, m := range t.methods {
		if m == method || m == http.MethodGet && method == http.MethodHead {
			return true
		}
	}
	return false
}

// ServeHTTP finds out whom a request is for: the function that its Host names,
// else the first route of its path that takes its method. Paths are compared
// as they were sent: nothing is decoded, cleaned or redirected, so that what
// is protected has one spelling and what goes to a function goes unchanged.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	target, ok := rawTarget(r)
	if !ok {
		say(w, http.StatusBadRequest, noPath(r))
		return
	}
	q := &request{Request: r}
	if q.entry = a.byHost(r.Host); q.entry != nil {
		q.rest = target
		a.call(w, q)
		return
	}
	var allow []string
	for i := range routes {
		t := &routes[i]
		name, rest, ok := t.match(target)
		if !ok {
			continue
		}
		if !t.open && !a.guard.admit(w, r) {
			return
		}
		if !t.takes(r.Method) {
			allow = append(allow, t.methods...)
			continue
		}
		q.name, q.rest = name, rest
		if !a.early(w, r, target) {
			t.answer(a, w, q)
		}
		return
	}
	switch {
	case allow != nil:
		w.Header().Set("Allow", strings.Join(allow, ", "))
		say(w, http.StatusMethodNotAllowed, "this path takes "+strings.Join(allow, ", "))
	case a.early(w, r, target):
	case strings.HasPrefix(target, protectedPrefix) && !a.guard.admit(w, r):
	default:
		say(w, http.StatusNotFound, "no such path; a function is called at /function/NAME")
	}
}

// rawTarget is the path and query of a request as its client wrote them. What
// asks for a tunnel has none, whatever it names: no pod could be sent it.
func rawTarget(r *http.Request) (string, bool) {
	if r.Method == http.MethodConnect {
		return "", false
	}
	target := r.RequestURI
	if target == "" {
		target = r.URL.RequestURI()
	}
	if r.Method == http.MethodConnect {
		return "", false
	}
	if strings.HasPrefix(target, "/") {
		return target, true
	}
	// The form that clients use to a proxy: scheme://host/path.
	_, after, ok := strings.Cut(target, "://")
	if !ok {
		return "", false
	}
	end := strings.IndexAny(after, "/?")
	if end < 0 {
		return "/", true
	}
	return slashed(after[end:]), true
}

// noPath says why a request has no target to go by, and what to do.
func noPath(r *http.Request) string {
	asked := fmt.Sprintf("%.16s %.128q: ", r.Method, r.RequestURI)
	if r.Method == http.MethodConnect {
		return asked + "weir is no proxy and opens no tunnel; send the request itself, to /function/NAME (and take weir out of the client's proxy settings)"
	}
	return asked + "expected a path that begins with /; a function is called at /function/NAME"
}

// slashed is a path and query that a request line may have: a path is never
// empty there.
func slashed(rest string) string {
	if strings.HasPrefix(rest, "/") {
		return rest
	}
	return "/" + rest
}

// hostRef reads NAME.NAMESPACE, with or without a port. What it makes of
// anything else is no function's name.
func hostRef(host string) function.Ref {
	if i := strings.LastIndexByte(host, ':'); i >= 0 {
		host = host[:i]
	}
	name, namespace, _ := strings.Cut(strings.ToLower(host), ".")
	return function.Ref{Name: name, Namespace: namespace}
}

// byHost is the function that exactly the Host names, or nil.
func (a *api) byHost(host string) *fleet.Entry {
	ref := hostRef(host)
	if ref.Namespace == "" {
		return nil
	}
	return a.g.cfg.Fleet.Get(ref)
}

// early answers what cannot be told yet: until everything that exists was
// read, a Host that might name a function may do so.
func (a *api) early(w http.ResponseWriter, r *http.Request, target string) bool {
	if a.complete() {
		return false
	}
	ref := hostRef(r.Host)
	if _, err := function.ParseRef(ref.String(), ""); err != nil {
		return false
	}
	if path, _, _ := strings.Cut(target, "?"); path == "/healthz" {
		return false
	}
	if a.await(r) {
		a.ServeHTTP(w, r)
		return true
	}
	unread(w)
	return true
}

// readingTime is how long a request waits for everything to be read. What takes
// longer is a provider that is away, and that is said.
const readingTime = 10 * time.Second

// await holds a request that came before everything that exists was read, as a
// call is held for a pod: a weir that was started anew in its place gets calls
// before its readiness was looked at again. It says whether all is known.
func (a *api) await(r *http.Request) bool {
	if a.complete() {
		return true
	}
	defer a.waiting.Add(-1)
	if a.waiting.Add(1) > int64(a.g.cfg.HoldRequests) {
		return false
	}
	timer := time.NewTimer(min(a.g.cfg.HoldTime, readingTime))
	defer timer.Stop()
	select {
	case <-a.g.cfg.Fleet.Complete():
	case <-timer.C:
	case <-r.Context().Done():
	case <-a.g.ctx.Done():
	}
	return a.complete()
}

// called is the answer of a route by which functions are called: the query is
// theirs.
func called(answer func(*api, http.ResponseWriter, *request)) func(*api, http.ResponseWriter, *request) {
	return func(a *api, w http.ResponseWriter, q *request) {
		status := a.find(w, q, a.g.cfg.Namespace)
		switch status {
		case 0:
			answer(a, w, q)
		case http.StatusNotFound, http.StatusBadRequest:
			a.g.metrics.notFound(status)
		}
	}
}

// named is the answer of a route about a function, whose namespace may stand
// in the query.
func named(answer func(*api, http.ResponseWriter, *request)) func(*api, http.ResponseWriter, *request) {
	return func(a *api, w http.ResponseWriter, q *request) {
		if a.find(w, q, cmp.Or(q.URL.Query().Get("namespace"), a.g.cfg.Namespace)) == 0 {
			answer(a, w, q)
		}
	}
}

// find looks up the function that a path names; one without a namespace is of
// that one. Where there is none it answers why, and returns the status.
func (a *api) find(w http.ResponseWriter, q *request, namespace string) int {
	ref, err := function.ParseRef(q.name, namespace)
	if err != nil {
		say(w, http.StatusBadRequest, err.Error())
		return http.StatusBadRequest
	}
	q.entry = a.g.cfg.Fleet.Get(ref)
	if q.entry == nil && a.await(q.Request) {
		q.entry = a.g.cfg.Fleet.Get(ref)
	}
	switch {
	case q.entry != nil:
		return 0
	case !a.complete():
		unread(w)
		return http.StatusServiceUnavailable
	}
	say(w, http.StatusNotFound, function.ErrNotFound.Error()+": "+ref.String())
	return http.StatusNotFound
}

// complete says whether everything that exists is known, so that what is not
// known does not exist.
func (a *api) complete() bool { return complete(a.g.cfg.Fleet) }

// unread is the answer where a 404 would say too much.
func unread(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "1")
	say(w, http.StatusServiceUnavailable, "weir has not read yet which functions there are: ask again; if it stays so its log says why")
}

// private says which of the watchdog's two own paths a function's path is, as
// its watchdog would read it, or "".
func private(rest string) string {
	// Nearly every path is told from them by its second byte.
	if len(rest) < len(contract.ReadyPath) || rest[1] != '_' && rest[1] != '%' {
		return ""
	}
	path, _, _ := strings.Cut(rest, "?")
	path, err := url.PathUnescape(path)
	if err == nil && (path == contract.HealthPath || path == contract.ReadyPath) {
		return path
	}
	return ""
}
