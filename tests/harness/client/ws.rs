//! A WebSocket client whose every step is bounded in time.

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::limit;

/// An open WebSocket.
pub struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    /// Connects to `http://ADDRESS` + `path`.
    ///
    /// # Errors
    /// The handshake's failure as text.
    pub async fn open(base: &str, path: &str) -> Result<Self, String> {
        let url = format!("{}{path}", base.replacen("http://", "ws://", 1));
        let connecting = tokio::time::timeout(limit(30.0), connect_async(url));
        let connected = connecting.await.map_err(|_| "no handshake within 30 s".to_owned())?;
        connected.map(|(socket, _)| Self(socket)).map_err(|error| error.to_string())
    }

    /// Sends a text.
    ///
    /// # Panics
    /// When the connection is broken.
    pub async fn say(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.expect("send over the WebSocket");
    }

    /// The next text, None when the other side closed.
    ///
    /// # Panics
    /// When nothing comes for 30 s.
    pub async fn hear(&mut self) -> Option<String> {
        let next = tokio::time::timeout(limit(30.0), self.0.next()).await.expect("a message within 30 s");
        match next {
            Some(Ok(Message::Text(text))) => Some(text.as_str().to_owned()),
            _ => None,
        }
    }

    /// Closes with the closing handshake.
    pub async fn close(mut self) {
        let _ = self.0.close(None).await;
        while let Ok(Some(Ok(_))) = tokio::time::timeout(limit(5.0), self.0.next()).await {}
    }
}
