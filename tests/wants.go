// An HTTPS server that asks for a client certificate: wants <pem> <require|request> <1.2|1.3>. It prints its port.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
)

func main() {
	config := &tls.Config{ClientAuth: tls.RequestClientCert}
	if os.Args[2] == "require" {
		config.ClientAuth = tls.RequireAnyClientCert
	}
	if os.Args[3] == "1.2" {
		config.MaxVersion = tls.VersionTLS12
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	greet := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "let in") })
	server := &http.Server{TLSConfig: config, Handler: greet, ErrorLog: log.New(io.Discard, "", 0)}
	log.Fatal(server.ServeTLS(listener, os.Args[1], os.Args[1]))
}
