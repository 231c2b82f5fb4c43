package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"time"
)

// described is what a provider of OpenFaaS's kind says of a function.
type described struct {
	Name              string            `json:"name"`
	Image             string            `json:"image"`
	Namespace         string            `json:"namespace"`
	EnvProcess        string            `json:"envProcess"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	Replicas          int               `json:"replicas"`
	AvailableReplicas int               `json:"availableReplicas"`
	InvocationCount   float64           `json:"invocationCount"`
	CreatedAt         time.Time         `json:"createdAt"`
}

const describePath = "/system/function/"

// describer is a provider that is asked about functions, and knows the answer
// at once: what a real one takes for it is not counted.
func describer(addr string, _ []string) error {
	return http.ListenAndServe(addr, describing())
}

func describing() http.Handler {
	created := time.Now()
	labels := map[string]string{"faas_function": "plain", "com.openfaas.scale.zero": "true"}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := strings.CutPrefix(r.URL.Path, describePath)
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(described{
			Name: name, Image: "example.com/" + name + ":1", Namespace: "default", Labels: labels,
			Replicas: 1, AvailableReplicas: 1, CreatedAt: created,
		})
	})
}

// asker is a gateway in front of args[0] that asks the provider at args[1]
// about each call before it forwards it, as OpenFaaS's does.
func asker(addr string, args []string) error {
	return http.ListenAndServe(addr, askingOf(args[0], args[1]))
}

func askingOf(target, provider string) http.Handler {
	to := &url.URL{Scheme: "http", Host: target}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true}}
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 1024, DisableCompression: true},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutPrefix(r.URL.Path, "/function/")
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		name, rest, _ := strings.Cut(path, "/")
		f, err := describe(client, provider, name)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		if f.AvailableReplicas == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		r.URL.Path = "/" + rest
		proxy.ServeHTTP(w, r)
	})
}

func describe(client *http.Client, provider, name string) (f described, err error) {
	resp, err := client.Get("http://" + provider + describePath + name)
	if err != nil {
		return f, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return f, fmt.Errorf("provider: status %d", resp.StatusCode)
	}
	if err = json.NewDecoder(resp.Body).Decode(&f); err != nil {
		return f, err
	}
	// A connection is kept only where its answer was read to the end.
	_, err = io.Copy(io.Discard, resp.Body)
	return f, err
}

// late is a handler that begins to listen when the file args[0] is there.
func late(addr string, args []string) error {
	for {
		if _, err := os.Stat(args[0]); err == nil {
			return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(w, r.Body)
			}))
		}
		time.Sleep(5 * time.Millisecond)
	}
}
